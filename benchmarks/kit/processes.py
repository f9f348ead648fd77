"""A server's processes seen from outside: memory, CPU time, threads and descriptors of the whole tree."""

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

INTERRUPT_SHARE = 1 / 6
"""Of the time that a server has to end, until it is asked by SIGTERM."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of a process and all its descendants."""

    processes: int
    memory_bytes: int
    """Proportional: a page that n processes share counts n times 1/n, so shared memory counts once."""
    shared_bytes: int
    """The part of it that is shared memory: with Ray, the pages of the object store that were ever used."""
    cpu_s: float
    """User and system time so far, also of children that have ended."""
    threads: int
    descriptors: int


def footprint(pid: int) -> Footprint:
    """Costs about 10 ms a process; processes that end meanwhile are left out."""
    memory = shared = threads = descriptors = count = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.Error, OSError):
            sizes = _proportional_bytes(process.pid)
            memory, shared = memory + sizes["Pss"], shared + sizes["Pss_Shmem"]
            threads += process.num_threads()
            descriptors += process.num_fds()
            count += 1
    return Footprint(count, memory, shared, cpu_s(pid), threads, descriptors)


def own_memory_by_name(pid: int) -> dict[str, int]:
    """Bytes that the tree's processes have written and share with no file, by what they are; see `cpu_s_by_name`.

    Unlike `Footprint.memory_bytes` these do not move when processes elsewhere let go of libraries that both had mapped.
    """
    held: dict[str, int] = defaultdict(int)
    for process in tree(pid):
        with contextlib.suppress(psutil.Error, OSError):
            held[_what(process)] += _proportional_bytes(process.pid)["Pss_Anon"]
    return dict(held)


def _proportional_bytes(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, *_ in fields}


def cpu_s(pid: int) -> float:
    """CPU seconds that the tree has used so far."""
    return sum(cpu_by_process(pid).values())


def others_cpu_s() -> float:
    """What the cores that this process may use have done so far for all but it and what it started."""
    times = psutil.cpu_times(percpu=True)
    busy_s = sum(sum(times[core]) - times[core].idle - times[core].iowait for core in os.sched_getaffinity(0))
    return float(busy_s - cpu_s(os.getpid()))


def cpu_by_process(pid: int) -> dict[psutil.Process, float]:
    """CPU seconds so far of each process of the tree, its ended children included."""
    used = {}
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used[process] = times.user + times.system + times.children_user + times.children_system
    return used


def cpu_s_by_name(pid: int) -> dict[str, float]:
    """CPU seconds of the tree's live processes by what they are: a Ray actor by its class, others by their program."""
    seconds: dict[str, float] = defaultdict(float)
    for process, used in cpu_by_process(pid).items():
        with contextlib.suppress(psutil.Error):
            seconds[_what(process)] += used
    return dict(seconds)


def _what(process: psutil.Process) -> str:
    title = (process.cmdline() or [process.name()])[0]
    actor = re.match(r"ray::(?:ServeReplica:\w+:)?(\w+)", title)
    return actor[1] if actor else Path(title).name


def tree(pid: int) -> list[psutil.Process]:
    """The process and its descendants that are alive."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


PROXY = "ray::ProxyActor"
"""How the title of Serve's own HTTP proxy begins."""


def replicas(pid: int, stage: str) -> list[psutil.Process]:
    """Those of Sluice's stage that have been built, among the tree's processes."""
    return titled(pid, f"ray::ServeReplica:sluice:{stage}")


def titled(pid: int, title: str) -> list[psutil.Process]:
    """Processes of the tree whose title begins so."""
    found = []
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(title) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class MemoryWatch:
    """The tree's peaks of memory while the `with` block lasts, looked at each `interval_s`."""

    def __init__(self, pid: int, interval_s: float = 2.0) -> None:
        self.peak_bytes = self.peak_shared_bytes = 0
        self._pid, self._interval_s = pid, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            found = footprint(self._pid)
            self.peak_bytes = max(self.peak_bytes, found.memory_bytes)
            self.peak_shared_bytes = max(self.peak_shared_bytes, found.shared_bytes)
            if self._stop.wait(self._interval_s):
                return


def end(root: subprocess.Popen[bytes], timeout_s: float = 60.0) -> None:
    """Ask `root` to end as ctrl-C does, then as `kill` does; kill what is left of its tree after `timeout_s`.

    The children of a shell's background jobs do not hear ctrl-C.
    """
    family = tree(root.pid)
    patience_s = INTERRUPT_SHARE * timeout_s
    try:
        for request, wait_s in ((signal.SIGINT, patience_s), (signal.SIGTERM, timeout_s - patience_s)):
            root.send_signal(request)
            with contextlib.suppress(subprocess.TimeoutExpired):
                root.wait(wait_s)
                break
    finally:  # also when this process is interrupted while it waits
        alive = [process for process in family if process.is_running()]
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        root.wait()
        psutil.wait_procs(alive, timeout=10)
