"""Answers by the checkpoint itself, through transformers alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMultimodalLM, AutoProcessor

from deployments.demo.blueprint import video_size
from deployments.demo.evaluation.cases import Case
from deployments.demo.evaluation.decoding import SOUND_RATE_HZ, Decoded, decode

MAX_NEW_TOKENS = 24
QUESTION_SPOT = "\0"
"""Stands where the question will, while the media before it are processed once for all questions."""


class Offline:
    """The checkpoint in `folder`, on the CPU, in its own dtype."""

    def __init__(self, folder: Path) -> None:
        self._processor = AutoProcessor.from_pretrained(folder)
        self._model = AutoModelForMultimodalLM.from_pretrained(folder, dtype="auto").eval()

    def answers(self, case: Case) -> list[str]:
        """The greedy answer to each question of `case`."""
        decoded = [decode(file, case.num_frames, case.with_sound) for file in case.files]
        return self.answers_on([file.part for file in case.files], decoded, [ask.text for ask in case.asks])

    def answers_on(self, parts: Sequence[str], decoded: Sequence[Decoded], questions: Sequence[str]) -> list[str]:
        """The greedy answer to each of `questions` on the same media; `parts` names the content part of each."""
        content = [*({"type": part} for part in parts), {"type": "text", "text": QUESTION_SPOT}]
        prompt = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before, after = prompt.split(QUESTION_SPOT)
        inputs = self._inputs(before, decoded)
        return [self._answer(inputs, question + after) for question in questions]

    def _inputs(self, text: str, decoded: Sequence[Decoded]) -> dict[str, Any]:
        pictures = [one.frames_THWC[0] for one in decoded if one.frames_THWC is not None and one.fps is None]
        clips = [one for one in decoded if one.frames_THWC is not None and one.fps is not None]
        sounds = [one.samples for one in decoded if one.samples is not None]
        listened = [place for place, clip in enumerate(clips) if clip.samples is not None]
        options: dict[str, Any] = {}
        if clips:
            options["videos_kwargs"] = {"do_sample_frames": False, "size": video_size(), "fps": clips[0].fps}
        if listened:
            options |= {"load_audio_from_video": True, "audio_from_video_indices": listened}
        if sounds:
            options["audio_kwargs"] = {"sampling_rate": SOUND_RATE_HZ}
        inputs = self._processor(
            text=[text],
            images=pictures or None,
            videos=[clip.frames_THWC for clip in clips] or None,
            audio=sounds or None,
            return_tensors="pt",
            **options,
        )
        inputs.pop("num_audio_tokens", None)
        if clips:
            # The processor takes one rate for all clips; each has its own.
            inputs["video_second_per_grid"] = torch.tensor([2 / (clip.fps or 1.0) for clip in clips])
        if listened:
            inputs["use_audio_in_video"] = True
        return dict(inputs)

    @torch.inference_mode()
    def _answer(self, inputs: dict[str, Any], rest: str) -> str:
        more = torch.tensor(self._processor.tokenizer.encode(rest, add_special_tokens=False))[None]
        ids: Tensor = torch.cat((inputs["input_ids"], more), dim=1)
        chosen = self._model.generate(
            **(inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}), max_new_tokens=MAX_NEW_TOKENS
        )
        return str(self._processor.tokenizer.decode(chosen[0, ids.shape[1] :], skip_special_tokens=True))
