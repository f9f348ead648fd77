"""Values of a stream come by the socket in their order, by Ray where there is none, and never silently fewer."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from deployments.errors import StageUnavailable
from deployments.serving.side_channel import Inbox, Inboxes, Outbox, Sender, SentAside

NODE = "node"


@contextmanager
def inboxes() -> Iterator[Inboxes]:
    opened = Inboxes(NODE)
    try:
        yield opened
    finally:
        opened.close()


async def sender_to(inbox: Inbox, outbox: Outbox | None = None) -> Sender:
    assert inbox.reply_to is not None
    sender = await (outbox or Outbox()).sender(inbox.reply_to, NODE)
    assert sender is not None
    return sender


async def calling(*values: object, error: Exception | None = None) -> AsyncIterator[Any]:
    """What a call yields to Ray."""
    for value in values:
        await asyncio.sleep(0)
        yield value
    if error is not None:
        raise error


async def taken(inbox: Inbox) -> list[Any]:
    found = []
    async with asyncio.timeout(10):
        while True:
            try:
                found.append(await inbox.next())
            except StopAsyncIteration:
                return found


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_many_streams_share_a_connection_and_keep_their_order(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:  # replicas run on uvloop
        runner.run(many_streams())


async def many_streams() -> None:
    outbox = Outbox()
    with inboxes() as opened:
        streams = [opened.open() for _ in range(20)]
        senders = [await sender_to(inbox, outbox) for inbox in streams]
        for number in range(50):
            for stream, sender in enumerate(senders):
                sender.send((stream, number, b"x" * 1000 * (number % 7)))
        for inbox, sender in zip(streams, senders, strict=True):
            asyncio.get_running_loop().create_task(inbox.follow(calling(SentAside(sender.count))))
        for stream, inbox in enumerate(streams):
            assert [value[:2] for value in await taken(inbox)] == [(stream, number) for number in range(50)]


async def test_the_end_may_be_heard_before_the_last_values_have_come() -> None:
    with inboxes() as opened:
        inbox = opened.open()
        sender = await sender_to(inbox)
        await inbox.follow(calling(SentAside(2)))
        for value in ("a", "b"):
            sender.send(value)
        assert await taken(inbox) == ["a", "b"]


async def test_values_come_by_ray_where_the_socket_cant_be_reached() -> None:
    with inboxes() as opened:
        inbox = opened.open()
        assert inbox.reply_to is not None
        assert await Outbox().sender(inbox.reply_to, "another node") is None
        opened.close()
        await asyncio.sleep(0.01)
        assert await Outbox().sender(inbox.reply_to, NODE) is None
        await inbox.follow(calling("a", "b"))
        assert await taken(inbox) == ["a", "b"]


async def test_what_the_call_fails_with_comes_after_the_values() -> None:
    with inboxes() as opened:
        inbox = opened.open()
        (await sender_to(inbox)).send("a")
        assert await inbox.next() == "a"
        await inbox.follow(calling(error=StageUnavailable("the replica died")))
        with pytest.raises(StageUnavailable, match="the replica died"):
            await inbox.next()


async def test_values_that_got_lost_are_an_error_and_not_a_shorter_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.serving.side_channel._SETTLE_S", 0.05)
    with inboxes() as opened:
        inbox = opened.open()
        (await sender_to(inbox)).send("a")
        await inbox.follow(calling(SentAside(2)))
        assert await inbox.next() == "a"
        with pytest.raises(StageUnavailable, match="lost on its way"):
            await inbox.next()


async def test_who_sends_notices_that_the_caller_has_gone() -> None:
    opened = Inboxes(NODE)
    inbox = opened.open()
    sender = await sender_to(inbox)
    sender.send("a")
    assert await inbox.next() == "a"
    opened.close()
    async with asyncio.timeout(10):
        while not sender.is_lost:
            await asyncio.sleep(0.005)
    with pytest.raises(StageUnavailable):
        sender.send("b")


async def test_what_comes_for_a_stream_that_was_left_harms_no_other() -> None:
    outbox = Outbox()
    with inboxes() as opened:
        left, kept = opened.open(), opened.open()
        sender = await sender_to(left, outbox)
        left.close()
        sender.send("for nobody")
        (await sender_to(kept, outbox)).send("a")
        await kept.follow(calling(SentAside(1)))
        assert await taken(kept) == ["a"]


async def test_another_users_connection_is_closed_unread() -> None:
    refused: Callable[[], int] = lambda: 12345  # noqa: E731
    with inboxes() as opened, pytest.MonkeyPatch.context() as patch:
        inbox = opened.open()
        assert inbox.reply_to is not None
        patch.setattr(os, "getuid", refused)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.setblocking(False)
            stranger.connect(inbox.reply_to.address)
            async with asyncio.timeout(10):
                assert await asyncio.get_running_loop().sock_recv(stranger, 1) == b""
