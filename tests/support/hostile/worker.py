"""Feeding a subject in a process of its own, sealed: deaths, hangs and memory of each input are seen from outside."""

import functools
import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tests.support.hostile.seal import seal

HANGS_AFTER_S = 120.0
"""Far beyond any deadline that a subject has, also on a busy machine."""


class Subject(Protocol):
    def feed(self, data: bytes) -> str:
        """What became of `data`, in a word. Raises for what should not be."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """Of one input."""

    number: int
    data: bytes
    outcome: str
    """The subject's word, or `failed`, `died`, `hung`."""
    detail: str = ""
    seconds: float = 0.0
    grown_bytes: int = 0
    """Peak resident memory while it was read, above what there was before."""

    @property
    def is_fault(self) -> bool:
        return self.outcome in ("failed", "died", "hung")


@dataclass(slots=True)
class Tally:
    """What became of many inputs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[Report] = field(default_factory=list)
    slowest: Report | None = None
    hungriest: Report | None = None

    def add(self, report: Report) -> None:
        self.outcomes[report.outcome] += 1
        if report.is_fault:
            self.faults.append(report)
        if self.slowest is None or report.seconds > self.slowest.seconds:
            self.slowest = report
        if self.hungriest is None or report.grown_bytes > self.hungriest.grown_bytes:
            self.hungriest = report


def feed_all(
    make_subject: Callable[[], Subject],
    inputs: Iterable[bytes],
    *,
    warm_up: Sequence[bytes] = (),
    workers: int = 1,
    hide_files: bool = False,
) -> Iterator[Report]:
    """A report of each input, in the order in which they are done.

    `make_subject` is a function of a module's top level, or a partial of one. `warm_up`: inputs that are read before
    the process is sealed, so that what is loaded on the first use is loaded by then. `hide_files`: see `seal`.
    """
    numbered, waiting = enumerate(inputs), deque[Report]()
    with ExitStack() as stack:
        start = functools.partial(_serve, make_subject, warm_up, hide_files)
        pool = [stack.enter_context(_Worker(start)) for _ in range(workers)]
        for worker in pool:
            worker.next_from(numbered)
        while busy := [worker for worker in pool if worker.busy]:
            wait([handle for worker in busy for handle in worker.handles], timeout=1.0)
            for worker in busy:
                if (report := worker.poll()) is not None:
                    waiting.append(report)
                    worker.next_from(numbered)
            while waiting:
                yield waiting.popleft()


class _Worker:
    """One process, started anew when it dies."""

    def __init__(self, serve: Callable[[Connection], None]) -> None:
        self._serve = serve
        self._current: tuple[int, bytes] | None = None

    def __enter__(self) -> "_Worker":
        self._start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.join()

    @property
    def busy(self) -> bool:
        return self._current is not None

    @property
    def handles(self) -> tuple[Connection, int]:
        return self._pipe, self._process.sentinel

    def next_from(self, inputs: Iterator[tuple[int, bytes]]) -> None:
        self._current = next(inputs, None)
        if self._current is not None:
            self._sent = time.monotonic()
            self._pipe.send_bytes(self._current[1])

    def poll(self) -> Report | None:
        """A report when there is news."""
        assert self._current is not None
        number, data = self._current
        try:
            if self._pipe.poll():
                return Report(number, data, *self._pipe.recv())
        except EOFError:
            self._process.join()
        if not self._process.is_alive():
            self._start()
            return Report(number, data, "died", f"exit status {self._exit_status}")
        if time.monotonic() - self._sent > HANGS_AFTER_S:
            self._process.kill()
            self._process.join()
            self._start()
            return Report(number, data, "hung", f"for more than {HANGS_AFTER_S:.0f} s", HANGS_AFTER_S)
        return None

    def _start(self) -> None:
        if hasattr(self, "_process"):
            self._exit_status = self._process.exitcode
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=self._serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # sealed by now


def _serve(make_subject: Callable[[], Subject], warm_up: Sequence[bytes], hide_files: bool, pipe: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries complain of each file at length
    memory = _Memory()
    subject = make_subject()
    for data in warm_up:
        subject.feed(data)
    seal(hide_files=hide_files)
    pipe.send("ready")
    while True:
        data = pipe.recv_bytes()
        before, started = memory.restart_peak(), time.monotonic()
        try:
            outcome, detail = subject.feed(data), ""
        except Exception as error:  # every one is a finding
            outcome, detail = "failed", _told(error)
        pipe.send((outcome, detail, time.monotonic() - started, max(0, memory.peak() - before)))


class _Memory:
    """This process's resident memory, by files that are open before the seal."""

    def __init__(self) -> None:
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._references = os.open("/proc/self/clear_refs", os.O_WRONLY)

    def restart_peak(self) -> int:
        os.write(self._references, b"5")
        return self._bytes("VmRSS:")

    def peak(self) -> int:
        return self._bytes("VmHWM:")

    def _bytes(self, name: str) -> int:
        lines = os.pread(self._status, 1 << 14, 0).decode().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _told(error: BaseException) -> str:
    """What and where, without reading source files."""
    places, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    cause = f" from {type(error.__cause__).__name__}: {error.__cause__}" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause} at {' > '.join(places[-5:])}"[:1500]
