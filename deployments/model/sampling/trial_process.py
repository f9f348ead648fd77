"""Run as a program of its own: compiles grammars of strangers where nothing is lost if that takes all memory or time.

For each grammar a child is forked, with limits that the kernel keeps whatever native code does: address space, CPU
seconds, and an alarm at the request's deadline. It ranks below what answers. The tokenizer is made once, before, and
shared with the children.

Lines of JSON on standard input: first `tokenizer`, `n_vocab`, `eos`; then a grammar each (`id`, `grammar`, `bytes`,
`cpu_s`, `alarm_s`, `yields`), or `id` alone to give one up. On standard output: `id`, `outcome`, `said`. Imports
nothing of the application, so that it is there at once and small.
"""

import contextlib
import json
import os
import resource
import selectors
import signal
import sys
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from llguidance._lib import LLParserLimits

MAX_LEXER_STATES = 50_000
"""Of one to two kB each, for as long as an answer lasts."""
_SAID_BYTES = 2000
_MEMORY_EXIT = 71


def parser_limits() -> Any:
    """What bounds a step of a grammar that has passed its trial: some 15 ms by llguidance's own fuel."""
    return LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)


@dataclass(slots=True)
class _Trial:
    number: int
    pid: int
    said: bytes = b""


class _Server:
    """Forks, and collects what the children say until they end."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._selector = selectors.DefaultSelector()
        self._trials: dict[int, _Trial] = {}  # by the descriptor on which a child speaks

    def serve(self) -> None:
        """Until standard input ends."""
        self._selector.register(0, selectors.EVENT_READ)
        unread = b""
        while True:
            for key, _ in self._selector.select():
                data = os.read(key.fd, 1 << 20)
                if key.fd != 0:
                    self._heard(key.fd, data)
                elif not data:
                    return
                else:
                    *lines, unread = (unread + data).split(b"\n")
                    for line in lines:
                        self._told(json.loads(line))

    def close(self) -> None:
        for trial in self._trials.values():
            os.kill(trial.pid, signal.SIGKILL)

    def _told(self, order: dict[str, Any]) -> None:
        if "grammar" not in order:
            for trial in self._trials.values():
                if trial.number == order["id"]:
                    os.kill(trial.pid, signal.SIGKILL)
            return
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            _try(self._tokenizer, order, theirs)
        os.close(theirs)
        self._trials[ours] = _Trial(order["id"], pid)
        self._selector.register(ours, selectors.EVENT_READ)

    def _heard(self, fd: int, data: bytes) -> None:
        trial = self._trials[fd]
        trial.said += data
        if data:
            return
        self._selector.unregister(fd)
        os.close(fd)
        del self._trials[fd]
        outcome = _outcome(os.waitpid(trial.pid, 0)[1])
        line = {"id": trial.number, "outcome": outcome, "said": trial.said.decode(errors="replace")}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _try(tokenizer: LLTokenizer, order: dict[str, Any], speak: int) -> None:
    """In the child: compile and take a first step; never returns."""
    os.nice(order["yields"])
    with contextlib.suppress(ValueError):  # a limit that is lower already stays
        limit = _address_space_bytes() + order["bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, order["cpu_s"])  # whose signals end the process, in native code too
    signal.setitimer(signal.ITIMER_REAL, order["alarm_s"])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    code = 0
    try:
        matcher = LLMatcher(tokenizer, order["grammar"], log_level=0, limits=parser_limits())
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            os.write(speak, matcher.get_error().encode()[:_SAID_BYTES])
            code = 1
    except MemoryError:
        code = _MEMORY_EXIT
    except BaseException as error:  # a panic of native code: whatever it is, it must not go on as the server
        os.write(speak, str(error).encode()[:_SAID_BYTES])
        code = 1
    os._exit(code)


def _outcome(status: int) -> str:
    """fits, refused, time, memory."""
    if os.WIFSIGNALED(status):
        return "time" if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM, signal.SIGKILL) else "memory"
    return {0: "fits", _MEMORY_EXIT: "memory"}.get(os.WEXITSTATUS(status), "refused")


def _address_space_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _first_line() -> bytes:
    """Read byte by byte at its end at the latest, so that nothing of the next line lies in a buffer of Python's."""
    with open(0, "rb", buffering=0, closefd=False) as source:
        return source.readline()


def main() -> None:
    first = json.loads(_first_line())
    server = _Server(LLTokenizer(first["tokenizer"], n_vocab=first["n_vocab"], eos_token=first["eos"]))
    try:
        server.serve()
    finally:
        server.close()


if __name__ == "__main__":
    main()
