"""The encoder's loop: one thread that owns the towers. A step encodes a part of what waits, everybody's in turn.

Items of several requests go through the towers together where shapes allow; a clip of many frames takes several steps,
between which others have theirs. What goes wrong with one request's media ends that request alone.
"""

import time
from collections import deque
from collections.abc import Sequence

from deployments.autoscaling import StageLoad
from deployments.core.deadline import Deadline
from deployments.errors import Overloaded, SluiceError
from deployments.model.encoder.load import EncoderLoad
from deployments.model.encoder.work import EncodeWork
from deployments.model.engine.failures import engine_error, is_fatal, is_out_of_memory, request_error
from deployments.model.engine.step_thread import StepThread
from deployments.model.forward.tower_runner import TowerRunner
from deployments.model.multimodal.items import Item
from deployments.model.multimodal.request_media import MediaMemory
from deployments.observability.metrics import MetricSink
from deployments.types import StageName

STEP_VALUES = 2**22
"""Numbers in the tensors of a step at most, if not in its first item alone: about four pairs of frames of 448 x 448."""

Part = tuple[EncodeWork, list[Item]]


class EncoderLoop:
    """`submit`, `wake`, `load` and `check_health` may be called from any thread."""

    def __init__(
        self,
        towers: TowerRunner,
        memory: MediaMemory,
        metrics: MetricSink,
        *,
        max_waiting: int,
        target_backlog_s: float,
        step_values: int = STEP_VALUES,
    ) -> None:
        """`memory`: an item that does not fit its budget is refused. `step_values`: of a step, or its first item's."""
        self._towers = towers
        self._memory = memory
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._load = EncoderLoad(target_backlog_s)
        self._step_values = step_values
        self._inbox: deque[EncodeWork] = deque()
        self._work: deque[EncodeWork] = deque()
        """Whose turn comes first stands first."""
        self._thread = StepThread(
            "encoder",
            "encoder",
            step=self.step,
            is_busy=lambda: self.busy,
            idle=self._report,
            failed=self._fail_all,
            on_cpu=towers.device.type == "cpu",  # beside a GPU nothing may keep this thread waiting
        )

    def start(self) -> None:
        self._thread.start()

    def submit(self, items: Sequence[Item], deadline: Deadline) -> EncodeWork:
        """Queue a request's items. Raises `TooLarge`, `Overloaded`, `StageUnavailable`."""
        for item in items:
            self._memory.check(item.nbytes)
        work = EncodeWork(items, deadline)
        with self._thread.submitting():
            if len(self._inbox) + len(self._work) >= self._max_waiting:
                raise Overloaded("too many requests wait for the encoder", retry_after_s=1.0)
            self._inbox.append(work)
        return work

    def wake(self) -> None:
        """Somebody has left."""
        self._thread.wake()

    @property
    def load(self) -> StageLoad | None:
        """How much of a replica the media in hand take, a step ago; None before the first were encoded."""
        return self._load.load

    def check_health(self) -> None:
        """Raise `ReplicaLost` when the thread is dead, `InternalError` when one step goes on and on."""
        self._thread.check_health()

    def close(self, grace_s: float = 0.0) -> None:
        """Take no more requests, let those under way finish for `grace_s` seconds, then stop the thread."""

        def give_up() -> None:
            for work in [*self._inbox, *self._work]:
                work.deadline.cancel()

        self._thread.close(grace_s, give_up)
        self._towers.close()

    @property
    def busy(self) -> bool:
        return bool(self._inbox or self._work)

    def step(self) -> None:
        """One round: let go of what nobody waits for, encode a part of what is left."""
        with self._thread.inbox():
            self._work += self._inbox
            self._inbox.clear()
        for work in list(self._work):
            if (error := work.given_up()) is not None:
                self._fail(work, error)
        began = time.monotonic()
        parts, values = self._next()
        for work, _ in parts:
            work.began = work.began or began
        self._encode(parts)
        self._load.record_step(values, time.monotonic() - began)
        for work, _ in parts:
            if not work.done.done() and not work.items:
                self._work.remove(work)
                self._load.record_end(work)
                work.finish()
        self._work.rotate(-sum(not work.done.done() for work, _ in parts))
        self._report()

    def _next(self) -> tuple[list[Part], int]:
        """The items of this step, by request, and their values; those whose outputs are kept cost nothing."""
        parts: list[Part] = []
        amount = 0
        for work in self._work:
            items, values = work.take(self._step_values - amount, self._cost, at_least_one=not amount)
            amount += values
            parts.append((work, items))
            if work.items:
                break
        return parts, amount

    def _cost(self, item: Item) -> int:
        return self._towers.cost(item, wait=True) or 0

    def _encode(self, parts: list[Part]) -> None:
        """Everybody's items in one go; one by one when that fails, so that the guilty one fails alone."""
        together = [item for _, items in parts for item in items]
        try:
            encoded = self._towers.encode(together) if together else []
        except Exception as error:
            if is_fatal(error):
                raise
            if is_out_of_memory(error):
                self._towers.forget()
            for work, items in parts:
                self._encode_alone(work, items)
        else:
            for work, items in parts:
                mine, encoded = encoded[: len(items)], encoded[len(items) :]
                work.keep(items, mine)

    def _encode_alone(self, work: EncodeWork, items: list[Item]) -> None:
        for item in items:
            try:
                work.keep([item], self._towers.encode([item]))
            except Exception as error:
                if is_fatal(error):
                    raise
                said = request_error(error)
                said.param = said.param or next(iter(item.labels), None)
                self._fail(work, said)
                return

    def _fail(self, work: EncodeWork, error: SluiceError) -> None:
        self._work.remove(work)
        work.fail(error)

    def _fail_all(self) -> None:
        with self._thread.inbox():
            for work in [*self._inbox, *self._work]:
                work.fail(engine_error())

    def _report(self) -> None:
        self._load.update(self._work)
        gauge, load = self._metrics.gauge, self._load.load
        gauge("sluice_load", load.in_hand if load else 0.0)
        gauge("sluice_encodes_waiting", len(self._work))
        gauge("sluice_waiting_media_values", sum(work.values_left for work in self._work))
        gauge("sluice_multimodal_bytes", sum(work.nbytes for work in self._work), place="host")
        gauge("sluice_cache_bytes", self._memory.cached_bytes, cache=StageName.ENCODE)
