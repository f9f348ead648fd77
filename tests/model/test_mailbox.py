"""Between the engine's thread and the loop that reads an answer: nothing is lost, and nobody is woken for nothing."""

import asyncio
import threading
import time

import pytest

from deployments.errors import InternalError
from deployments.model.output.assembler import Mailbox, gather_s
from deployments.model.sequence import Timing, Token

TIMING = Timing(0.0, 0.0, 0.0, 0.0)


class CountingLoop:
    """An event loop of which only the wake-ups from other threads are wanted."""

    def __init__(self) -> None:
        self.wake_ups = 0

    def call_soon_threadsafe(self, callback) -> None:
        self.wake_ups += 1
        asyncio.get_running_loop().call_soon(callback)


def engine(mailbox: Mailbox, tokens: int, pause_s: float = 0.0) -> threading.Thread:
    """A thread that writes `tokens` letters and the end."""

    def write() -> None:
        for number in range(tokens):
            time.sleep(pause_s)
            mailbox.on_token(0, Token(number), None)
        mailbox.on_end(TIMING)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


async def test_every_token_arrives_once_and_in_order() -> None:
    mailbox = Mailbox(asyncio.get_running_loop())
    thread = engine(mailbox, 500, pause_s=0.0001)
    read: list[int] = []
    async with asyncio.timeout(30):
        while mailbox.timing is None:
            await mailbox.wait(for_end=False)
            read += [token.token_id for _, token, _ in mailbox.take()]
    read += [token.token_id for _, token, _ in mailbox.take()]
    thread.join()
    assert read == list(range(500))


async def test_the_end_is_not_gathered_past() -> None:
    mailbox = Mailbox(asyncio.get_running_loop())
    thread = engine(mailbox, 3)
    async with asyncio.timeout(30):
        await mailbox.gather(3600)
    thread.join()
    assert [token.token_id for _, token, _ in mailbox.take()] == [0, 1, 2]


async def test_gathering_ends_with_its_time_although_tokens_came() -> None:
    mailbox = Mailbox(asyncio.get_running_loop())
    mailbox.on_token(0, Token(7), None)
    await mailbox.gather(0.01)
    assert mailbox.timing is None
    assert len(mailbox.take()) == 1


async def test_only_a_reader_that_waits_for_tokens_is_woken_by_one() -> None:
    loop = CountingLoop()
    mailbox = Mailbox(loop)
    mailbox.on_token(0, Token(1), None)
    assert loop.wake_ups == 0
    mailbox.take()
    waiting = asyncio.create_task(mailbox.wait(for_end=False))
    await asyncio.sleep(0)
    for number in range(5):
        mailbox.on_token(0, Token(number), None)
    await waiting
    assert loop.wake_ups == 1
    waiting = asyncio.create_task(mailbox.wait(for_end=True))
    await asyncio.sleep(0)
    mailbox.on_token(0, Token(9), "stop")
    assert loop.wake_ups == 1
    mailbox.on_end(TIMING)
    await waiting
    assert loop.wake_ups == 2


@pytest.mark.parametrize("for_end", [True, False])
async def test_an_error_reaches_the_reader_before_what_came_ahead_of_it(for_end: bool) -> None:
    mailbox = Mailbox(asyncio.get_running_loop())
    mailbox.on_token(0, Token(1), None)
    mailbox.on_error(InternalError("broken"))
    with pytest.raises(InternalError, match="broken"):
        await mailbox.wait(for_end=for_end)
    with pytest.raises(InternalError, match="broken"):
        await mailbox.gather(3600)


@pytest.mark.parametrize(("awaiting", "expected_s"), [(0, 0.05), (1, 0.1), (3, 0.2), (50, 0.2)])
def test_pieces_become_larger_while_others_wait_for_their_first_token(awaiting, expected_s):
    assert gather_s(0.05, awaiting) == pytest.approx(expected_s)
