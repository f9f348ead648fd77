import asyncio
import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.shared_budget import SharedBudget


async def test_room_is_given_back_at_the_end_of_the_block_also_after_an_error():
    budget = SharedBudget(100)
    with pytest.raises(ValueError, match="x"), budget.open("a") as lease:
        await lease.grow(80)
        assert budget.used == 80
        raise ValueError("x")
    assert budget.used == 0


async def test_what_is_kept_for_an_array_stays_taken_until_its_memory_is_freed():
    budget = SharedBudget(100)
    with budget.open() as lease:
        await lease.grow(100)
        view = np.empty(100, np.uint8)[:30]
        lease.keep_for(view)
    assert budget.used == 30
    part = view[:5]
    del view
    gc.collect()
    await asyncio.sleep(0)
    assert budget.used == 30
    thread = threading.Thread(target=lambda array: None, args=(part,))
    del part
    thread.start()
    thread.join()
    del thread
    await asyncio.sleep(0.01)
    assert budget.used == 0


async def test_nobody_waits_for_room_that_another_has_not_taken():
    budget = SharedBudget(100, reserve=40)
    with budget.open("slow") as slow, budget.open("other") as other:
        await slow.grow(1)  # and will want 99 more some day
        await other.grow(30)
        assert budget.used == 31


async def test_one_holder_gets_a_share_of_the_common_room_and_the_others_the_rest():
    budget = SharedBudget(140, reserve=40)
    with budget.open("greedy"), budget.open("greedy") as second, budget.open("greedy") as third:
        await second.grow(50)
        waiting = asyncio.create_task(third.grow(1))
        await asyncio.sleep(0)
        assert not waiting.done()
        with budget.open("other") as other:
            await other.grow(50)
        second.release()
        await waiting


async def test_the_oldest_may_always_end_when_all_hold_a_part():
    budget = SharedBudget(200, reserve=100)
    leases = [budget.open(name) for name in "abcd"]
    for lease in leases:
        await lease.grow(25)
    ended = []

    async def finish(lease):
        await lease.grow(75)
        ended.append(lease.holders[0])
        lease.release()

    await asyncio.wait_for(asyncio.gather(*map(finish, reversed(leases))), 10)
    assert ended[0] == "a"
    assert budget.used == 0


async def test_what_is_larger_than_everything_is_had_alone():
    budget = SharedBudget(100)
    with budget.open("a") as first, budget.open("b") as second:
        await second.grow(1)
        waiting = asyncio.create_task(first.grow(1000))
        await asyncio.sleep(0)
        assert not waiting.done()
        second.release()
        await waiting


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from("abc"), st.booleans()), max_size=25))
def test_room_is_never_exceeded_or_lost_and_everybody_ends_whoever_is_cancelled(items):
    async def run():
        budget = SharedBudget(160, reserve=60)
        most = 0

        async def hold(size, holder):
            nonlocal most
            with budget.open(holder) as lease:
                for piece in (size // 3, size // 3, size - 2 * (size // 3)):
                    await lease.grow(piece)
                    most = max(most, budget.used)
                    await asyncio.sleep(0)

        tasks = [asyncio.create_task(hold(size, holder)) for size, holder, _ in items]
        await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, items, strict=True):
            if cancelled:
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert budget.used == 0
        assert most <= 160

    asyncio.run(run())
