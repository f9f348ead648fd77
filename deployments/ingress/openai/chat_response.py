"""From the model's chunks to OpenAI's objects: `chat.completion`, `chat.completion.chunk`, usage."""

from typing import Any

from deployments.ingress.pipeline.pipeline import ReadyPrompt
from deployments.ingress.pipeline.timing import Timings
from deployments.types import DecodedVideo, GenerateChunk, GenerateTimes, TokenDelta, TokenLogprob


class ChatResponse:
    """Gathers one request's answer, and words each chunk of it."""

    def __init__(self, answer_id: str, created_s: int, model: str, num_choices: int, prompt: ReadyPrompt) -> None:
        self._head = {"id": answer_id, "created": created_s, "model": model}
        self._counts = prompt.prepared.counts
        self._videos = prompt.videos
        self._choices = [_Choice(index) for index in range(num_choices)]
        self.times: GenerateTimes | None = None

    @property
    def completion_tokens(self) -> int:
        return sum(choice.num_tokens for choice in self._choices)

    def add(self, chunk: GenerateChunk) -> None:
        for delta in chunk.deltas:
            self._choices[delta.index].add(delta)
        self.times = chunk.times or self.times

    def completion(self, timings: Timings) -> dict[str, Any]:
        """The whole answer at once."""
        choices = [choice.worded() for choice in self._choices]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self.usage(timings)}

    def delta_events(self, chunk: GenerateChunk, *, with_usage: bool) -> list[dict[str, Any]]:
        """What a stream says of `chunk`; `with_usage`: a usage follows at the stream's end."""
        return [
            self._event([self._choices[delta.index].worded_delta(delta)], with_usage)
            for delta in chunk.deltas
            if delta.text or delta.finish_reason or delta.logprobs
        ]

    def usage_event(self, timings: Timings) -> dict[str, Any]:
        return {**self._event([], with_usage=True), "usage": self.usage(timings)}

    def usage(self, timings: Timings) -> dict[str, Any]:
        """OpenAI's usage; extensions: tokens of all modalities, `sluice_timing_ms` by stage, `sluice_videos`."""
        counts = self._counts
        usage: dict[str, Any] = {
            "prompt_tokens": counts.total,
            "completion_tokens": self.completion_tokens,
            "total_tokens": counts.total + self.completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "text_tokens": counts.text,
                "image_tokens": counts.image,
                "video_tokens": counts.video,
                "audio_tokens": counts.audio,
            },
            "sluice_timing_ms": timings.milliseconds(),
        }
        if self._videos:
            usage["sluice_videos"] = {label: _worded_video(video) for label, video in self._videos.items()}
        return usage

    def _event(self, choices: list[dict[str, Any]], with_usage: bool) -> dict[str, Any]:
        event = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        return {**event, "usage": None} if with_usage else event


class _Choice:
    """One of the `n` answers."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._finish_reason: str | None = None
        self._said_role = False
        self.num_tokens = 0

    def add(self, delta: TokenDelta) -> None:
        self._texts.append(delta.text)
        self.num_tokens += delta.num_tokens
        self._finish_reason = delta.finish_reason or self._finish_reason
        if delta.logprobs:
            self._logprobs = [*(self._logprobs or ()), *delta.logprobs]

    def worded(self) -> dict[str, Any]:
        return {
            "index": self._index,
            "message": {"role": "assistant", "content": "".join(self._texts), "refusal": None},
            "logprobs": None if self._logprobs is None else _worded_logprobs(self._logprobs),
            "finish_reason": self._finish_reason,
        }

    def worded_delta(self, delta: TokenDelta) -> dict[str, Any]:
        words: dict[str, Any] = {} if self._said_role else {"role": "assistant", "content": ""}
        self._said_role = True
        if delta.text:
            words["content"] = delta.text
        return {
            "index": self._index,
            "delta": words,
            "logprobs": _worded_logprobs(delta.logprobs) if delta.logprobs else None,
            "finish_reason": delta.finish_reason,
        }


def _worded_logprobs(logprobs: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any]:
    content = [
        {
            **_worded_token(entry.token, entry.logprob),
            "top_logprobs": [_worded_token(token, logprob) for _, token, logprob in entry.top],
        }
        for entry in logprobs
    ]
    return {"content": content, "refusal": None}


def _worded_token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "bytes": list(token.encode("utf-8", "replace")), "logprob": logprob}


def _worded_video(video: DecodedVideo) -> dict[str, Any]:
    return {
        "frame_indices": video.indices,
        "frame_timestamps_s": [round(timestamp, 3) for timestamp in video.timestamps_s],
        "total_frames": video.total_frames,
        "source_fps": round(video.source_fps, 3),
        "duration_s": round(video.duration_s, 3),
        "lost_frames": video.lost_frames,
    }
