"""The thread that owns a device: one step after the other while there is work, and what others may know of it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.core.priority import yield_to_event_loops
from deployments.errors import InternalError, ReplicaLost, StageUnavailable
from deployments.model.engine.failures import engine_error

WEDGED_AFTER_S = 60.0
"""A step that takes longer than this makes the replica unhealthy."""
IDLE_REPORT_S = 1.0
"""Gauges that are not set again and again go missing from the metrics page."""


class StepThread:
    """`inbox`, `wake` and `check_health` may be used from any thread."""

    def __init__(
        self,
        name: str,
        replica: str,
        *,
        step: Callable[[], None],
        is_busy: Callable[[], bool],
        idle: Callable[[], None],
        failed: Callable[[], None],
        on_cpu: bool,
        pause_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`step()` while `is_busy()`, after a wait of `pause_s()` at most; `idle()` before each wait for work;
        `failed()` when a step has raised: nothing is taken in any more. `on_cpu`: event loops on its cores come first.
        """
        self.name = name
        self._replica = replica
        self._step, self._is_busy, self._idle, self._failed = step, is_busy, idle, failed
        self._pause_s = pause_s
        self._on_cpu = on_cpu
        self._changed = threading.Condition()
        self._closing = False
        self._step_began: float | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something has changed."""
        with self._changed:
            self._changed.notify()

    @contextmanager
    def inbox(self) -> Iterator[None]:
        """Alone with what is taken in. Not to be held for long: the thread waits meanwhile."""
        with self._changed:
            yield

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """The same, to put something in. Raises `StageUnavailable` where nothing is taken any more."""
        with self._changed:
            if self._failure is not None:
                raise engine_error()
            if self._closing:
                raise StageUnavailable(f"the {self._replica} replica is shutting down")
            yield
            self._changed.notify()

    def check_health(self) -> None:
        """Raise `ReplicaLost` when the thread is dead, `InternalError` when one step goes on and on."""
        if self._failure is not None:
            raise ReplicaLost(f"the {self.name} has failed") from self._failure
        if self._thread.ident is not None and not self._thread.is_alive() and not self._closing:
            raise ReplicaLost(f"the {self.name}'s thread is dead")
        began = self._step_began
        if began is not None and time.monotonic() - began > WEDGED_AFTER_S:
            raise InternalError(f"the {self.name}'s step does not end")

    def close(self, grace_s: float, give_up: Callable[[], None]) -> None:
        """Take nothing more, let what is under way finish for `grace_s` seconds, then `give_up()` the rest and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(grace_s)
            give_up()
            self._thread.join()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def _run(self) -> None:
        if self._on_cpu:
            yield_to_event_loops()
        try:
            while self._wait_for_work():
                self._step_began = time.monotonic()
                self._step()
                self._step_began = None
        except Exception as error:
            with self._changed:
                self._failure, self._closing = error, True
            self._failed()
            raise

    def _wait_for_work(self) -> bool:
        """True as soon as there is something to do, False to stop."""
        with self._changed:
            while not self._is_busy() and not self._closing:
                self._idle()
                self._changed.wait(IDLE_REPORT_S)
            if (pause_s := self._pause_s()) is not None:
                self._changed.wait(pause_s)
        return self._is_busy()
