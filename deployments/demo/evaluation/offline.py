"""Answers by the checkpoint itself, through transformers alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForMultimodalLM, AutoProcessor

from deployments.demo.blueprint import END, video_size
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
        parts, questions = [file.part for file in case.files], [ask.text for ask in case.asks]
        return self.answers_on(parts, decoded, questions, [ask.truth for ask in case.asks])

    def answers_on(
        self,
        parts: Sequence[str],
        decoded: Sequence[Decoded],
        questions: Sequence[str],
        guesses: Sequence[str] | None = None,
    ) -> list[str]:
        """The greedy answer to each of `questions` on the same media; `parts` names the content part of each.

        Right `guesses` save time: one forward pass tells whether every token of a guess is the most likely one after
        those before it, which is what greedy means. Where not, the answer is generated.
        """
        content = [*({"type": part} for part in parts), {"type": "text", "text": QUESTION_SPOT}]
        prompt = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before, after = prompt.split(QUESTION_SPOT)
        inputs = self._inputs(before, decoded)
        confirmed = [False] * len(questions)
        if guesses is not None:
            confirmed = self._confirm(inputs, [question + after for question in questions], guesses)
        return [
            guesses[row] if guesses is not None and confirmed[row] else self._answer(inputs, questions[row] + after)
            for row in range(len(questions))
        ]

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
    def _confirm(self, inputs: dict[str, Any], rests: Sequence[str], guesses: Sequence[str]) -> list[bool]:
        """Whether each guess is the greedy answer: the media are prefilled once, all questions run as one batch."""
        encode = self._processor.tokenizer.encode
        asked = [encode(rest, add_special_tokens=False) for rest in rests]
        told = [encode(guess + END, add_special_tokens=False) for guess in guesses]
        mask = torch.ones_like(inputs["input_ids"])
        cache = self._model(**(inputs | {"attention_mask": mask}), use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(rests))
        rows = [torch.tensor(first + second) for first, second in zip(asked, told, strict=True)]
        ids = pad_sequence(rows, batch_first=True)
        begin = mask.shape[1] + int(self._model.model.rope_deltas.item())
        positions = torch.arange(begin, begin + ids.shape[1]).expand(3, len(rows), -1)
        chosen = self._model(input_ids=ids, position_ids=positions, past_key_values=cache).logits.argmax(2)
        return [
            chosen[row, len(first) - 1 : len(first) + len(second) - 1].tolist() == second
            for row, (first, second) in enumerate(zip(asked, told, strict=True))
        ]

    @torch.inference_mode()
    def _answer(self, inputs: dict[str, Any], rest: str) -> str:
        more = torch.tensor(self._processor.tokenizer.encode(rest, add_special_tokens=False))[None]
        ids: Tensor = torch.cat((inputs["input_ids"], more), dim=1)
        chosen = self._model.generate(
            **(inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}), max_new_tokens=MAX_NEW_TOKENS
        )
        return str(self._processor.tokenizer.decode(chosen[0, ids.shape[1] :], skip_special_tokens=True))
