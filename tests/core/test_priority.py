"""Computing threads rank below the event loops of the same machine, and above nothing."""

import os
import sys
import threading

import pytest

from deployments.core.deadline import Deadline
from deployments.core.executor import StageExecutor
from deployments.core.priority import LOWEST, YIELD, YIELD_MORE, yield_to_event_loops

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own here")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_a_stages_workers_yield_and_its_event_loop_does_not() -> None:
    before = niceness()
    media, text = StageExecutor("decode", 1), StageExecutor("preprocess", 1, yields=YIELD)
    assert await media.run(Deadline(5, "decode"), niceness) == min(before + YIELD_MORE, LOWEST)
    assert await text.run(Deadline(5, "preprocess"), niceness) == min(before + YIELD, LOWEST)
    assert niceness() == before
    media.close()
    text.close()


def test_what_a_worker_starts_yields_as_well() -> None:
    found: list[int] = []

    def work() -> None:
        yield_to_event_loops()
        helper = threading.Thread(target=lambda: found.append(niceness()))
        helper.start()
        helper.join()

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert found == [min(niceness() + YIELD, LOWEST)]


def test_nobody_ranks_below_the_lowest() -> None:
    found: list[int] = []

    def work() -> None:
        for _ in range(2 * LOWEST):
            yield_to_event_loops()
        found.append(niceness())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert found == [LOWEST]
