"""A request's clip that comes in groups: what is still under way of it, and how all is done again where a part is lost.

The prompt is made of what the decoder says of the clip before it is decoded, and the model is called once the first
group is there, while the others are promises. Whatever goes wrong with one, the clip is decoded whole: then the answer
is what it would have been, or the error. Until the model has begun to answer, the request's files are held for that.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.errors import MediaLost, SluiceError
from deployments.stage_calls import Begun, Promise, StageResult, TensorRef
from deployments.types import DecodedVideo, Fetched


@dataclass(slots=True)
class Coming:
    """A clip in groups."""

    begun: Begun[DecodedVideo]
    later: tuple[TensorRef, ...]
    """Promised."""
    groups: tuple[TensorRef, ...] = ()
    """All, once the first is there."""

    async def arrive(self) -> None:
        """Wait for the first group. Raises what decoding raises."""
        self.groups = (await self.begun.payload(), *self.later)


@dataclass(slots=True)
class Overlap:
    """Of one request."""

    is_allowed: bool = False
    """Whether a clip may come in groups."""
    began: float | None = None
    """When the first one did, by the monotonic clock."""
    names: dict[str, str] = field(default_factory=dict)
    """Of the request's sources (`content_keys.source_name`), by label."""
    files: dict[str, StageResult[Fetched]] = field(default_factory=dict)
    """What was fetched, by name of its source."""
    again: bool = False
    """Whether a clip was lost: everything is done again, of these files."""
    _cancel: list[Callable[[], None]] = field(default_factory=list)
    _keep: list[Callable[[], None]] = field(default_factory=list)

    def fetched(self, name: str, result: StageResult[Fetched]) -> None:
        """Hold a file for as long as it may be wanted again."""
        if self.is_allowed:
            self.files[name] = result

    async def begin(
        self, since: float, begun: Begun[DecodedVideo], others: Sequence[Coroutine[Any, Any, Promise]]
    ) -> Coming:
        """A clip's first group is under way; ask for `others`. Raises `MediaLost` where one finds no place."""
        self.began = since
        self._cancel.append(begun.cancel)
        answers = await asyncio.gather(*others, return_exceptions=True)
        promises = [answer for answer in answers if isinstance(answer, Promise)]
        self._cancel += [promise.cancel for promise in promises]
        for answer in answers:
            if isinstance(answer, SluiceError):
                raise MediaLost("no decoder takes a part of a clip") from answer
            if isinstance(answer, BaseException):
                raise answer
        return Coming(begun, tuple(promise.payload for promise in promises))

    def keep(self, keep: Callable[[], None]) -> None:
        """`keep()` what comes once all of it is known to have come."""
        self._keep.append(keep)

    def take_back(self) -> bool:
        """Stop what is under way; all is to be done again, without groups. False where there were none."""
        self.stop()
        self.again, self.is_allowed, self.began = self.began is not None, False, None
        return self.again

    def stop(self) -> None:
        """Nobody waits for what is under way."""
        for cancel in self._cancel:
            cancel()
        self._cancel.clear()
        self._keep.clear()

    def release_files(self) -> None:
        """They will not be wanted again."""
        self.files.clear()

    def settle(self, *, came: bool) -> None:
        """The answer has begun; whether all groups had come by then. Others are not waited for."""
        self.release_files()
        if not came:
            self.stop()
        for keep in self._keep:
            keep()
        self._cancel.clear()
        self._keep.clear()
