import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.deadline import Deadline
from deployments.errors import MediaNotReachable, TooLarge
from deployments.fetcher.blob import Blob
from deployments.fetcher.cache import Freshness, MediaCache
from deployments.observability.metrics import RecordingSink
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support import media_server as host
from tests.support.media_files import make_picture, make_video

PICTURE, OTHER = make_picture(number=1), make_picture(number=2)
FOREVER = Freshness(storable=True, max_age_s=1e9, etag=None)


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
        ({"Cache-Control": "private, max-age=60"}, (False, 60)),
        ({"Cache-Control": "no-cache", "ETag": '"1"'}, (True, 0)),
        ({"Cache-Control": "no-cache, max-age=60"}, (False, 0)),
        ({"ETag": '"1"'}, (True, 0)),
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
    cache = MediaCache(100)
    order = []
    for url, size in puts:
        cache.put(url, blob(size), FOREVER)
        order = [kept for kept in order if kept[0] != url] + [(url, size)]
        while sum(size for _, size in order) > 100:
            order.pop(0)
        assert cache.size_bytes == sum(size for _, size in order) <= 100
    assert [url for url in "abcdef" if cache.get(url)] == sorted(url for url, _ in order)


def test_use_keeps_an_entry_from_being_the_next_to_go():
    cache = MediaCache(100)
    for url in "ab":
        cache.put(url, blob(50), FOREVER)
    cache.get("a")
    cache.put("c", blob(50), FOREVER)
    assert [url for url in "abc" if cache.get(url)] == ["a", "c"]


def test_an_entry_is_fresh_for_as_long_as_its_host_said():
    now = 100.0
    cache = MediaCache(100, clock=lambda: now)
    cache.put("a", blob(1), Freshness(storable=True, max_age_s=10, etag='"1"'))
    assert cache.is_fresh(cache.get("a"))
    now = 110.0
    assert not cache.is_fresh(cache.get("a"))
    cache.confirm("a", cache.get("a"), Freshness(storable=True, max_age_s=10, etag=None))
    assert cache.is_fresh(cache.get("a"))
    assert cache.get("a").etag == '"1"'


def test_a_newer_answer_that_may_not_be_kept_drops_the_older_one():
    cache = MediaCache(100)
    cache.put("a", blob(1), FOREVER)
    cache.put("a", blob(1), Freshness(storable=False, max_age_s=0, etag=None))
    assert cache.get("a") is None
    assert cache.size_bytes == 0


# ── in the fetcher ───────────────────────────────────────────────────────────────────────────────────────────────────


async def fetch(fetcher, url, kind=MediaKind.IMAGE):
    _, data = await fetcher.fetch(MediaItem(kind, "messages[0].content[0]", url), Deadline(60.0, "request"))
    return data.tobytes()


async def test_nothing_is_kept_by_default(server):
    url = server.add("/a", host.serve(PICTURE, cache_control="max-age=60"))
    async with fetching() as fetcher:
        await fetch(fetcher, url)
        await fetch(fetcher, url)
    assert server.hits("/a") == 2


async def test_fresh_media_are_fetched_once(server):
    url = server.add("/a", host.serve(PICTURE, cache_control="max-age=60"))
    metrics = RecordingSink()
    async with fetching(cache_bytes=10**6, metrics=metrics) as fetcher:
        assert await fetch(fetcher, url) == await fetch(fetcher, url) == PICTURE
    assert server.hits("/a") == 1
    assert metrics.values["sluice_fetch_cache_hits", ()] == 1


async def test_stale_media_are_asked_for_by_their_etag_and_not_sent_again(server):
    url = server.add("/a", host.serve(PICTURE, etag='"1"', cache_control="no-cache"))
    async with fetching(cache_bytes=10**6) as fetcher:
        for _ in range(3):
            assert await fetch(fetcher, url) == PICTURE
    assert [hit.headers.get("if-none-match") for hit in server.hits_seen] == [None, '"1"', '"1"']


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


async def test_what_a_redirect_led_to_is_not_kept(server):
    server.add("/b", host.serve(PICTURE, cache_control="max-age=60"))
    url = server.add("/a", host.redirect("/b"))
    async with fetching(cache_bytes=10**6) as fetcher:
        await fetch(fetcher, url)
        await fetch(fetcher, url)
    assert server.hits("/a") == 2


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
