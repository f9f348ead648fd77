import asyncio
import contextlib
import gzip
import socket
import threading
import zlib

import numpy as np
import pytest

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError, MediaHostError, MediaNotReachable, StageTimeout, TooLarge
from deployments.observability.metrics import RecordingSink
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support import media_server as host
from tests.support.media_files import make_picture

PNG = make_picture("PNG")


def image(url, label="messages[0].content[1]"):
    return MediaItem(MediaKind.IMAGE, label, url)


def minute():
    return Deadline(60.0, "request")


@pytest.mark.parametrize("behaviour", [host.serve, host.chunked], ids=["declared", "chunked"])
async def test_bytes_arrive_whole_as_one_read_only_array(server, behaviour):
    url = server.add("/a.png", behaviour(PNG))
    async with fetching() as fetcher:
        fetched, data = await fetcher.fetch(image(url + "?X-Signature=secret"), minute())
    assert data.tobytes() == PNG
    assert (data.dtype, data.shape, data.flags.writeable) == (np.uint8, (len(PNG),), False)
    assert (fetched.kind, fetched.container, fetched.size_bytes) == (MediaKind.IMAGE, "png", len(PNG))
    assert fetched.final_url == url
    assert server.hits_seen[0].headers["accept-encoding"] == "identity"


async def test_a_body_larger_than_any_buffer_arrives_whole(server):
    body = PNG + np.random.default_rng(0).bytes(9_000_000)
    urls = [server.add("/declared", host.serve(body)), server.add("/chunked", host.chunked(body, piece=100_001))]
    async with fetching() as fetcher:
        for url in urls:
            _, data = await fetcher.fetch(image(url), minute())
            assert data.tobytes() == body


async def test_connections_are_reused(server):
    urls = [server.add(f"/{i}.png", host.serve(PNG)) for i in range(20)]
    async with fetching() as fetcher:
        for url in urls:
            await fetcher.fetch(image(url), minute())
    assert server.connections == 1


async def test_one_host_gets_half_of_the_connections_and_no_more(server):
    gate = threading.Event()
    urls = [server.add(f"/{i}.png", host.held(PNG, gate)) for i in range(8)]
    async with fetching(max_connections=6) as fetcher, asyncio.TaskGroup() as group:
        for url in urls:
            group.create_task(fetcher.fetch(image(url), minute()))
        while len(server.hits_seen) < 3:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert len(server.hits_seen) == 3
        gate.set()
    assert len(server.hits_seen) == 8


# ── size ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_declared_length_over_the_limit_is_refused_before_the_body(server):
    url = server.add("/big.png", host.stalled(PNG, declared=10_000))  # would never end
    async with fetching(max_image_bytes=9_999) as fetcher:
        with pytest.raises(TooLarge, match=r"messages\[0\]\.content\[1\] .* 9999 bytes"):
            await fetcher.fetch(image(url), minute())


async def test_an_undeclared_length_is_counted_and_cut_at_the_limit(server):
    url = server.add("/endless.png", host.endless(PNG))
    async with fetching(max_image_bytes=300_000) as fetcher:
        with pytest.raises(TooLarge):
            await fetcher.fetch(image(url), minute())


@pytest.mark.parametrize("size", [len(PNG), len(PNG) - 1])
@pytest.mark.parametrize("behaviour", [host.serve, host.chunked], ids=["declared", "chunked"])
async def test_the_limit_is_exact(server, behaviour, size):
    url = server.add("/a.png", behaviour(PNG))
    async with fetching(max_image_bytes=size) as fetcher:
        if size < len(PNG):
            with pytest.raises(TooLarge):
                await fetcher.fetch(image(url), minute())
        else:
            await fetcher.fetch(image(url), minute())


async def test_the_limit_is_that_of_the_kind_also_for_one_url_asked_as_two_kinds_at_once(server):
    gate = threading.Event()
    url = server.add("/x", host.held(bytes(2000), gate))
    async with fetching(max_image_bytes=1000, max_video_bytes=5000) as fetcher:
        as_image = asyncio.create_task(fetcher.fetch(MediaItem(MediaKind.IMAGE, "a", url), minute()))
        as_video = asyncio.create_task(fetcher.fetch(MediaItem(MediaKind.VIDEO, "b", url), minute()))
        await asyncio.sleep(0.05)
        gate.set()
        with pytest.raises(TooLarge):
            await as_image
        with pytest.raises(BadMedia, match="is not a video"):
            await as_video


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
async def test_an_encoding_that_was_not_asked_for_is_undone(server, encoding):
    packed = zlib.compress(PNG) if encoding == "deflate" else gzip.compress(PNG)
    url = server.add("/a.png", host.serve(packed, Content_Encoding=encoding))
    async with fetching() as fetcher:
        fetched, data = await fetcher.fetch(image(url), minute())
    assert data.tobytes() == PNG
    assert fetched.size_bytes == len(PNG)


async def test_a_gzip_bomb_is_cut_at_the_limit(server):
    url = server.add("/bomb", host.gzip_bomb(16 * 2**20))
    async with fetching(max_image_bytes=100_000) as fetcher:
        with pytest.raises(TooLarge):
            await fetcher.fetch(image(url), minute())


@pytest.mark.parametrize("packed", [gzip.compress(PNG)[:-9], b"garbage!", gzip.compress(PNG) + b"more", b""])
async def test_a_damaged_encoding_is_the_medias_fault(server, packed):
    url = server.add("/a", host.serve(packed, Content_Encoding="gzip"))
    async with fetching() as fetcher:
        with pytest.raises(BadMedia, match="Content-Encoding"):
            await fetcher.fetch(image(url), minute())


async def test_an_unknown_encoding_is_refused(server):
    url = server.add("/a", host.serve(PNG, Content_Encoding="br"))
    async with fetching() as fetcher:
        with pytest.raises(MediaHostError, match="Content-Encoding"):
            await fetcher.fetch(image(url), minute())


# ── failures of the media host ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [401, 403, 404, 410])
async def test_4xx_is_the_clients_fault_and_not_tried_again(server, code):
    url = server.add("/a", host.status(code))
    async with fetching() as fetcher:
        with pytest.raises(MediaNotReachable, match=f"answered {code}") as refused:
            await fetcher.fetch(image(url + "?token=secret"), minute())
    assert refused.value.param == "messages[0].content[1]"
    assert "secret" not in refused.value.message
    assert server.hits("/a") == 1


@pytest.mark.parametrize("code", [500, 501, 429])
async def test_failures_that_do_not_pass_are_the_hosts_and_not_tried_again(server, code):
    url = server.add("/a", host.status(code))
    async with fetching() as fetcher:
        with pytest.raises(MediaHostError, match=f"answered {code}"):
            await fetcher.fetch(image(url), minute())
    assert server.hits("/a") == 1


@pytest.mark.parametrize(
    "failure",
    [host.status(502), host.status(503), host.status(504), host.reset(), host.cut(PNG[:50], declared=len(PNG))],
)
async def test_failures_that_may_pass_are_tried_again(server, failure):
    url = server.add("/a", host.in_turn([failure, failure, host.serve(PNG)]))
    async with fetching(max_retries=2) as fetcher:
        _, data = await fetcher.fetch(image(url), minute())
    assert data.tobytes() == PNG


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (host.status(503), "answered 503"),
        (host.reset(), "broke the connection off"),
        (host.cut(PNG[:50], declared=len(PNG)), "broke the connection off"),
    ],
)
async def test_tries_are_counted_and_then_the_host_is_named(server, failure, message):
    url = server.add("/a", failure)
    async with fetching(max_retries=1) as fetcher:
        with pytest.raises(MediaHostError, match=message) as failed:
            await fetcher.fetch(image(url), minute())
    assert type(failed.value) is MediaHostError  # nothing of this room leaves it
    assert "127.0.0.1" in failed.value.message


async def test_no_try_begins_that_would_outlast_the_deadline(server):
    url = server.add("/a", host.status(503))
    async with fetching(max_retries=30) as fetcher:
        with pytest.raises((MediaHostError, StageTimeout)):
            await fetcher.fetch(image(url), Deadline(0.5, "request"))


async def test_a_closed_port_is_the_hosts_failure():
    with socket.socket() as reserved:  # bound, but nobody listens
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/a"
        async with fetching(max_retries=0) as fetcher:
            with pytest.raises(MediaHostError, match="refuses the connection"):
                await fetcher.fetch(image(url), minute())


async def test_a_server_that_does_not_speak_http_is_the_hosts_failure():
    async def greet(reader, writer):
        writer.write(b"220 smtp.example ready\r\n")
        await writer.drain()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, fetching() as fetcher:
        with pytest.raises(MediaHostError, match="HTTP"):
            await fetcher.fetch(image(f"http://127.0.0.1:{port}/"), minute())


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("silence", [host.stalled(), host.stalled(PNG[:20], declared=len(PNG))])
async def test_a_silent_host_is_given_up(server, silence):
    url = server.add("/a", silence)
    async with fetching(read_timeout_s=0.1) as fetcher:
        with pytest.raises(MediaHostError, match="went silent"):
            await fetcher.fetch(image(url), minute())
    assert server.hits("/a") == 1


@pytest.mark.parametrize("behaviour", [host.slow(PNG, pause_s=0.02, piece=1), host.chunked(PNG, pause_s=0.02, piece=1)])
async def test_a_host_that_drips_is_given_up(server, behaviour):
    url = server.add("/a", behaviour)
    async with fetching(read_timeout_s=0.1) as fetcher:
        with pytest.raises(MediaHostError, match="sends too slowly"):
            await fetcher.fetch(image(url), minute())
    assert server.hits("/a") == 1


async def test_a_host_whose_headers_never_end_is_given_up():
    async def endless(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"X: a\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)

    listener = await asyncio.start_server(endless, "127.0.0.1", 0)
    async with listener, fetching(read_timeout_s=0.1, connect_timeout_s=0.1) as fetcher:
        with pytest.raises(MediaHostError, match="takes too long to say its headers"):
            await fetcher.fetch(image(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"), minute())


async def test_a_host_that_drips_is_cut_at_the_requests_deadline(server):
    url = server.add("/a", host.slow(bytes(10_000), pause_s=0.02, piece=1))
    async with fetching() as fetcher:
        with pytest.raises(StageTimeout) as late:
            await fetcher.fetch(image(url), Deadline(0.2, "request"))
    assert (late.value.stage, late.value.param) == ("fetch", "messages[0].content[1]")


async def test_a_host_that_drips_is_cut_at_the_stages_own_limit(server):
    url = server.add("/a", host.slow(bytes(10_000), pause_s=0.02, piece=1))
    async with fetching(total_timeout_s=0.2) as fetcher:
        with pytest.raises(StageTimeout):
            await fetcher.fetch(image(url), minute())


async def test_a_cancelled_fetch_closes_its_connection(server):
    closed = threading.Event()

    async def drip(request):
        try:
            return await host.slow(bytes(100_000), pause_s=0.01, piece=1)(request)
        except (ConnectionError, asyncio.CancelledError):
            closed.set()
            raise

    url = server.add("/a", drip)
    async with fetching() as fetcher:
        fetch = asyncio.create_task(fetcher.fetch(image(url), minute()))
        while not server.hits("/a"):
            await asyncio.sleep(0.005)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert await asyncio.to_thread(closed.wait, 10)


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(server, code):
    server.add("/b.png", host.serve(PNG))
    url = server.add("/a", host.redirect("/b.png?sig=1", code))
    async with fetching() as fetcher:
        fetched, data = await fetcher.fetch(image(url), minute())
    assert data.tobytes() == PNG
    assert fetched.final_url == server.url("/b.png")


@pytest.mark.parametrize(("hops", "allowed"), [(3, True), (4, False)])
async def test_the_number_of_redirects_is_limited(server, hops, allowed):
    server.add("/0", host.serve(PNG))
    for hop in range(hops):
        server.add(f"/{hop + 1}", host.redirect(f"/{hop}"))
    async with fetching(max_redirects=3) as fetcher:
        if allowed:
            await fetcher.fetch(image(server.url(f"/{hops}")), minute())
        else:
            with pytest.raises(MediaNotReachable, match="more than 3 times"):
                await fetcher.fetch(image(server.url(f"/{hops}")), minute())
            assert server.hits("/0") == 0


async def test_redirect_loops_end(server):
    url = server.add("/a", host.redirect("/a"))
    async with fetching(max_redirects=3) as fetcher:
        with pytest.raises(MediaNotReachable, match="more than 3 times"):
            await fetcher.fetch(image(url), minute())
    assert server.hits("/a") == 4


async def test_a_redirect_without_location_is_an_error(server):
    url = server.add("/a", host.redirect(None))
    async with fetching() as fetcher:
        with pytest.raises(MediaHostError, match="without saying where"):
            await fetcher.fetch(image(url), minute())


# ── the session ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_closed_session_is_not_healthy_and_an_open_one_is():
    metrics = RecordingSink()
    async with fetching(metrics=metrics) as fetcher:
        fetcher.check_health()
    with pytest.raises(InternalError, match="session"):
        fetcher.check_health()


async def test_closing_ends_what_is_under_way(server):
    url = server.add("/a", host.stalled())
    async with fetching() as fetcher:
        fetch = asyncio.create_task(fetcher.fetch(image(url), minute()))
        while not server.hits("/a"):
            await asyncio.sleep(0.005)
    with pytest.raises(Exception, match="shutting down"):
        await fetch


async def test_cookies_of_one_answer_are_not_sent_with_the_next_request(server):
    url = server.add("/a", host.serve(PNG, Set_Cookie="session=1"))
    async with fetching() as fetcher:
        await fetcher.fetch(image(url), minute())
        await fetcher.fetch(image(url), minute())
    assert all("cookie" not in hit.headers for hit in server.hits_seen)
