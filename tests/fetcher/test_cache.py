import asyncio
import base64
import hashlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.deadline import Deadline
from deployments.errors import MediaNotReachable, TooLarge
from deployments.fetcher.blob import Blob
from deployments.fetcher.cache import Freshness, MediaCache, Validators
from deployments.observability.metrics import RecordingSink
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support import media_server as host
from tests.support.media_files import make_picture, make_video

PICTURE, OTHER = make_picture(number=1), make_picture(number=2)
FOREVER = Freshness(allowed=True, max_age_s=1e9)


def blob(size):
    return Blob(np.zeros(size, np.uint8), None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (False, 0)),
        ({"Cache-Control": "max-age=60"}, (True, 60)),
        ({"Cache-Control": "public, Max-Age=60"}, (True, 60)),
        ({"Cache-Control": 'max-age="60"'}, (True, 60)),
        ({"Cache-Control": "max-age=60", "Age": "15"}, (True, 45)),
        ({"Cache-Control": "max-age=60", "Age": "70"}, (False, 0)),
        ({"Cache-Control": "max-age=60, s-maxage=10"}, (True, 10)),
        ({"Cache-Control": "max-age=60, must-revalidate"}, (True, 60)),
        ({"Cache-Control": "no-store, max-age=60"}, (False, 60)),
        ({"Cache-Control": "private, max-age=60, s-maxage=9"}, (True, 60)),
        ({"Cache-Control": "no-cache", "ETag": '"1"'}, (True, 0)),
        ({"Cache-Control": "no-cache, max-age=60"}, (False, 0)),
        ({"ETag": '"1"'}, (True, 0)),
        ({"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, (True, 0)),
        ({"ETag": '"1"', "Cache-Control": "no-store"}, (False, 0)),
        ({"Cache-Control": "max-age=60", "Vary": "*"}, (False, 60)),
        ({"Cache-Control": "max-age=soon"}, (False, 0)),
        ({"Cache-Control": ",,=,max-age"}, (False, 0)),
    ],
)
def test_what_a_host_says_about_keeping_is_respected(headers, expected):
    freshness = Freshness.of(headers)
    assert (freshness.storable, freshness.max_age_s) == expected


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60)), max_size=40))
def test_the_cache_never_holds_more_than_its_bytes_and_drops_the_longest_unused(puts):
    cache = MediaCache(100, RecordingSink())
    order = []
    for url, size in puts:
        cache.put(url, blob(size), FOREVER)
        order = [kept for kept in order if kept[0] != url] + [(url, size)]
        while sum(size for _, size in order) > 100:
            order.pop(0)
        assert cache.size_bytes == sum(size for _, size in order) <= 100
    assert [url for url in "abcdef" if cache.get(url)] == sorted(url for url, _ in order)


def test_use_keeps_an_entry_from_being_the_next_to_go():
    cache = MediaCache(100, RecordingSink())
    for url in "ab":
        cache.put(url, blob(50), FOREVER)
    cache.get("a")
    cache.put("c", blob(50), FOREVER)
    assert [url for url in "abc" if cache.get(url)] == ["a", "c"]


def test_an_entry_is_fresh_for_as_long_as_its_host_said():
    now = 100.0
    cache = MediaCache(100, RecordingSink(), clock=lambda: now)
    cache.put("a", blob(1), Freshness(allowed=True, max_age_s=10, validators=Validators('"1"', "then")))
    assert cache.is_fresh(cache.get("a"))
    now = 110.0
    assert not cache.is_fresh(cache.get("a"))
    cache.confirm("a", cache.get("a"), Freshness(allowed=True, max_age_s=10))
    assert cache.is_fresh(cache.get("a"))
    assert cache.get("a").validators == Validators('"1"', "then")


def test_a_newer_answer_that_may_not_be_kept_drops_the_older_one():
    cache = MediaCache(100, RecordingSink())
    cache.put("a", blob(1), FOREVER)
    cache.put("a", blob(1), Freshness(allowed=False, max_age_s=0))
    assert cache.get("a") is None
    assert cache.size_bytes == 0


# ── in the fetcher ───────────────────────────────────────────────────────────────────────────────────────────────────


async def fetch(fetcher, url, kind=MediaKind.IMAGE):
    _, data = await fetcher.fetch(MediaItem(kind, "messages[0].content[0]", url), Deadline(60.0, "request"))
    return data.tobytes()


async def test_nothing_is_kept_where_there_is_no_room_or_the_client_wants_none(server):
    url = server.add("/a", host.serve(PICTURE, cache_control="max-age=60"))
    async with fetching(cache_bytes=0) as fetcher:
        await fetch(fetcher, url)
        await fetch(fetcher, url)
    assert server.hits("/a") == 2
    async with fetching() as fetcher:
        item = MediaItem(MediaKind.IMAGE, "a", url, cache=False)
        uses = [(await fetcher.fetch(item, Deadline(60.0, "request")))[0].cache for _ in range(2)]
        await fetch(fetcher, url)
    assert server.hits("/a") == 5
    assert uses == ["off", "off"]


async def test_fresh_media_are_fetched_once(server):
    url = server.add("/a", host.serve(PICTURE, cache_control="max-age=60"))
    metrics = RecordingSink()
    async with fetching(cache_bytes=10**6, metrics=metrics) as fetcher:
        assert await fetch(fetcher, url) == await fetch(fetcher, url) == PICTURE
    assert server.hits("/a") == 1
    assert metrics.values["sluice_cache_hits", ("fetch",)] == metrics.values["sluice_cache_misses", ("fetch",)] == 1
    assert metrics.values["sluice_cache_bytes", ("fetch",)] == len(PICTURE)


async def test_stale_media_are_asked_for_by_their_etag_and_not_sent_again(server):
    url = server.add("/a", host.serve(PICTURE, etag='"1"', cache_control="no-cache"))
    async with fetching(cache_bytes=10**6) as fetcher:
        for _ in range(3):
            assert await fetch(fetcher, url) == PICTURE
    assert [hit.headers.get("if-none-match") for hit in server.hits_seen] == [None, '"1"', '"1"']


async def test_stale_media_without_an_etag_are_asked_for_by_their_date(server):
    date = "Thu, 01 Jan 2026 00:00:00 GMT"

    async def answer(request):
        if request.headers.get("If-Modified-Since") == date:
            return web.Response(status=304)
        return web.Response(body=PICTURE, headers={"Last-Modified": date})

    url = server.add("/a", answer)
    async with fetching() as fetcher:
        found = [await fetcher.fetch(MediaItem(MediaKind.IMAGE, "a", url), Deadline(60.0, "request")) for _ in "123"]
    assert [fetched.cache for fetched, _ in found] == ["miss", "revalidated", "revalidated"]
    assert all(data.tobytes() == PICTURE for _, data in found)


async def test_private_media_answer_the_client_alone_for_whom_they_were_fetched(server):
    url = server.add("/a", host.serve(PICTURE, etag='"1"', cache_control="private, max-age=60"))
    async with fetching() as fetcher:
        for client in ("one", "one", "two", "two", "one"):
            await fetcher.fetch(MediaItem(MediaKind.IMAGE, "a", url, client), Deadline(60.0, "request"))
    assert [hit.headers.get("if-none-match") for hit in server.hits_seen] == [None, None]


async def test_one_flight_for_private_media_is_not_shared_between_clients(server):
    url = server.add("/a", host.serve(PICTURE, cache_control="private"))
    async with fetching() as fetcher:
        items = [MediaItem(MediaKind.IMAGE, "a", url, client) for client in ("one", "one", "two")]
        await asyncio.gather(*(fetcher.fetch(item, Deadline(60.0, "request")) for item in items))
    assert server.hits("/a") == 2


async def test_clients_share_nothing_where_the_operator_says_so(server):
    url = server.add("/a", host.serve(PICTURE, cache_control="max-age=60"))
    async with fetching(cache_per_key=True) as fetcher:
        for client in ("one", "two", "one", "two"):
            await fetcher.fetch(MediaItem(MediaKind.IMAGE, "a", url, client), Deadline(60.0, "request"))
    assert server.hits("/a") == 2


async def test_fresh_media_are_not_answered_once_their_host_may_not_be_dialled(server):
    """A name that led to an allowed address and now leads elsewhere."""
    addresses = ["127.0.0.1"]
    now = 0.0

    async def lookup(name):
        return addresses

    url = server.add("/a", host.serve(PICTURE, cache_control="max-age=60")).replace("127.0.0.1", "media.example")
    async with fetching(lookup=lookup, clock=lambda: now) as fetcher:
        assert await fetch(fetcher, url) == await fetch(fetcher, url) == PICTURE
        addresses[:], now = ["10.0.0.1"], 11.0
        with pytest.raises(MediaNotReachable):
            await fetch(fetcher, url)


async def test_contents_that_the_caller_knows_are_told_and_not_sent(server):
    url = server.add("/a", host.serve(PICTURE, etag='"1"'))
    digest = hashlib.sha256(PICTURE).hexdigest()
    text = np.frombuffer(b"data:image/jpeg;base64," + base64.b64encode(PICTURE), np.uint8)
    async with fetching() as fetcher:
        for source, data_url in ((url, None), (None, text)):
            for known, sent in (((), PICTURE), (("another",), PICTURE), (("another", digest), None)):
                item = MediaItem(MediaKind.IMAGE, "a", source, known=known)
                fetched, data = await fetcher.fetch(item, Deadline(60.0, "request"), data_url)
                assert fetched.digest == digest
                assert (None if data is None else data.tobytes()) == sent


@pytest.mark.parametrize("behaviour", [host.serve, partial(host.chunked, piece=300_000)])
async def test_digests_are_those_of_the_whole_file(server, behaviour):
    """One that is hashed in pieces while it arrives."""
    data = make_picture() + np.random.default_rng(0).bytes(9_000_001)
    url = server.add("/a", behaviour(data))
    async with fetching() as fetcher:
        fetched, got = await fetcher.fetch(MediaItem(MediaKind.IMAGE, "a", url), Deadline(60.0, "request"))
    assert fetched.digest == hashlib.sha256(data).hexdigest()
    assert got.tobytes() == data


async def test_a_host_is_not_asked_again_for_what_the_caller_was_told_a_moment_ago(server):
    url = server.add("/a", host.serve(PICTURE, etag='"1"'))
    async with fetching() as fetcher:
        item = MediaItem(MediaKind.IMAGE, "a picture", url)
        told, _ = await fetcher.fetch(item, Deadline(10, "fetch"))
        for digest, hits in ((told.digest, 1), ("another", 2), ("", 3)):
            again, data = await fetcher.fetch(replace(item, confirmed=digest), Deadline(10, "fetch"))
            assert (again.digest, bytes(data)) == (told.digest, PICTURE)
            assert server.hits("/a") == hits


async def test_media_that_changed_replace_what_was_kept(server):
    url = server.add("/a", host.serve(PICTURE, etag='"1"'))
    async with fetching(cache_bytes=10**6) as fetcher:
        assert await fetch(fetcher, url) == PICTURE
        server.add("/a", host.serve(OTHER, etag='"2"'))
        assert await fetch(fetcher, url) == OTHER
        assert await fetch(fetcher, url) == OTHER
    assert [hit.headers.get("if-none-match") for hit in server.hits_seen] == [None, '"1"', '"2"']


async def test_media_that_are_gone_are_not_served_from_the_cache(server):
    url = server.add("/a", host.serve(PICTURE, etag='"1"'))
    async with fetching(cache_bytes=10**6) as fetcher:
        await fetch(fetcher, url)
        server.add("/a", host.status(404))
        with pytest.raises(MediaNotReachable):
            await fetch(fetcher, url)


async def test_queries_tell_media_apart_and_fragments_do_not(server):
    url = server.add("/a", host.serve(PICTURE, cache_control="max-age=60"))
    async with fetching(cache_bytes=10**6) as fetcher:
        for asked in (url + "?v=1", url + "?v=2", url + "?v=1#t=3"):
            await fetch(fetcher, asked)
    assert server.hits("/a") == 2


@pytest.mark.parametrize(
    ("hop", "file", "hits"),
    [
        ("max-age=60", {"cache_control": "max-age=60"}, 1),
        (None, {"cache_control": "max-age=60"}, 2),
        ("no-store, max-age=60", {"cache_control": "max-age=60"}, 2),
        ("max-age=60", {}, 2),
        ("max-age=60", {"cache_control": "no-store, max-age=60"}, 2),
    ],
)
async def test_what_redirects_led_to_is_kept_where_every_answer_on_the_way_allows_it(server, hop, file, hits):
    server.add("/c", host.serve(PICTURE, **file))
    server.add("/b", host.status(301, Location="/c", **({"Cache-Control": hop} if hop else {})))
    url = server.add("/a", host.status(302, Location="/b", Cache_Control="max-age=60"))
    async with fetching() as fetcher:
        assert await fetch(fetcher, url) == await fetch(fetcher, url) == PICTURE
    assert [server.hits(path) for path in ("/a", "/b", "/c")] == [hits] * 3


async def test_a_redirect_that_says_nothing_is_asked_again_and_the_file_by_its_etag(server):
    server.add("/b", host.serve(PICTURE, etag='"1"', cache_control="max-age=60"))
    url = server.add("/a", host.redirect("/b"))
    async with fetching() as fetcher:
        assert await fetch(fetcher, url) == await fetch(fetcher, url) == PICTURE
        server.add("/a", host.redirect("/c"))
        server.add("/c", host.serve(OTHER, etag='"1"'))
        assert await fetch(fetcher, url) == await fetch(fetcher, url) == OTHER
    asked = [(hit.path, hit.headers.get("if-none-match")) for hit in server.hits_seen]
    first = [("/a", None), ("/b", None), ("/a", None), ("/b", '"1"')]
    assert asked == [*first, ("/a", None), ("/c", None), ("/a", None), ("/c", '"1"')]


async def test_a_private_redirect_makes_what_it_led_to_private(server):
    server.add("/b", host.serve(PICTURE, cache_control="max-age=60"))
    url = server.add("/a", host.status(302, Location="/b", Cache_Control="private, max-age=60"))
    async with fetching() as fetcher:
        for client in ("one", "one", "two", "two"):
            await fetcher.fetch(MediaItem(MediaKind.IMAGE, "a", url, client), Deadline(60.0, "request"))
    assert server.hits("/a") == server.hits("/b") == 2


async def test_what_redirects_led_to_is_not_answered_once_one_of_their_hosts_may_not_be_dialled(server):
    inside, now = set(), 0.0

    async def lookup(name):
        return ["10.0.0.1" if name in inside else "127.0.0.1"]

    names = ["first.example", "between.example", "last.example"]
    server.add("/c", host.serve(PICTURE, cache_control="max-age=600"))
    for path, name in (("/b", names[2]), ("/a", names[1])):
        location = f"http://{name}:{server.port}{'/c' if path == '/b' else '/b'}"
        server.add(path, host.status(302, Location=location, Cache_Control="max-age=600"))
    url = f"http://{names[0]}:{server.port}/a"
    async with fetching(lookup=lookup, clock=lambda: now) as fetcher:
        for name in (None, *names):
            now += 20.0
            inside = {name}
            if name is None:
                assert await fetch(fetcher, url) == await fetch(fetcher, url) == PICTURE
                continue
            with pytest.raises(MediaNotReachable, match=name):
                await fetch(fetcher, url)
    assert [server.hits(path) for path in ("/a", "/b", "/c")] == [1, 1, 1]


async def test_an_etag_is_not_shown_to_where_its_url_redirects_now(server):
    url = server.add("/a", host.serve(PICTURE, etag='"1"'))
    async with fetching(cache_bytes=10**6) as fetcher:
        assert await fetch(fetcher, url) == PICTURE
        server.add("/a", host.redirect("/b"))
        server.add("/b", host.serve(OTHER, etag='"1"'))
        assert await fetch(fetcher, url) == OTHER


async def test_kept_media_meet_the_limit_of_the_kind_they_are_asked_as(server):
    video = make_video(5)
    url = server.add("/a", host.serve(video, cache_control="max-age=60"))
    async with fetching(cache_bytes=10**6, max_audio_bytes=len(video) - 1) as fetcher:
        assert await fetch(fetcher, url, MediaKind.VIDEO) == video
        with pytest.raises(TooLarge, match="audio items"):
            await fetch(fetcher, url, MediaKind.AUDIO)
