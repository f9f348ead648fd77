"""What stays for good is not gone over again and again."""

import gc
from collections.abc import Iterator

import pytest

from deployments.ingress.http.gc_freeze import GcFreeze


@pytest.fixture
def frozen_before() -> Iterator[int]:
    gc.unfreeze()
    yield gc.get_freeze_count()
    gc.freeze()


def test_a_replica_settles_once_when_it_is_idle_after_an_answer(frozen_before: int) -> None:
    settling = GcFreeze()
    settling.look(running=0)
    settling.answered()
    settling.look(running=1)
    assert gc.get_freeze_count() == frozen_before
    settling.look(running=0)
    frozen = gc.get_freeze_count()
    assert frozen > frozen_before
    kept = [[] for _ in range(100)]
    settling.look(running=0)
    assert gc.get_freeze_count() <= frozen
    assert len(kept) == 100
