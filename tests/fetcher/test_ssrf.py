"""Hosts are hostile: where connections go, observed from the servers that they would reach."""

import asyncio
import socket

import pytest

from deployments.core.deadline import Deadline
from deployments.errors import MediaHostError, MediaNotReachable, StageTimeout
from deployments.types import MediaItem, MediaKind
from tests.fetcher.conftest import fetching
from tests.support import media_server as host
from tests.support.media_files import make_picture

PNG = make_picture("PNG")


def image(url, client=""):
    return MediaItem(MediaKind.IMAGE, "messages[0].content[0]", url, client)


def minute():
    return Deadline(60.0, "request")


class Names:
    """A name server whose answers follow each other; the last one stays."""

    def __init__(self, **answers):
        self.answers = {name.replace("_", "."): list(turns) for name, turns in answers.items()}
        self.asked = []

    async def __call__(self, name):
        self.asked.append(name)
        turns = self.answers.get(name)
        if not turns:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return turns.pop(0) if len(turns) > 1 else turns[0]


@pytest.fixture
def forbidden():
    """A server on this machine that a client must not reach: only 127.0.0.1 is allowed."""
    with host.MediaServer(host="127.0.0.2") as running:
        running.add("/secret", host.serve(PNG))
        yield running


def assert_untouched(server):
    assert server.hits_seen == []
    assert server.connections == 0


async def test_a_private_address_is_refused_before_it_sees_one_byte(forbidden):
    async with fetching() as fetcher:
        with pytest.raises(MediaNotReachable, match="without a public address"):
            await fetcher.fetch(image(forbidden.url("/secret")), minute())
    assert_untouched(forbidden)


async def test_loopback_is_refused_by_default(server):
    url = server.add("/a.png", host.serve(PNG))
    lookup = Names(localhost=[["127.0.0.1", "::1"]])
    async with fetching(allowed_networks=[], lookup=lookup) as fetcher:
        for address in (url, f"http://localhost:{server.port}/a.png"):
            with pytest.raises(MediaNotReachable, match="without a public address"):
                await fetcher.fetch(image(address), minute())
    assert_untouched(server)


async def test_a_redirect_to_a_private_address_is_refused_before_that_sees_one_byte(server, forbidden):
    url = server.add("/a", host.redirect(forbidden.url("/secret")))
    async with fetching() as fetcher:
        with pytest.raises(MediaNotReachable, match="without a public address"):
            await fetcher.fetch(image(url), minute())
    assert_untouched(forbidden)


async def test_a_redirect_to_a_name_of_a_private_address_is_refused_before_that_sees_one_byte(server, forbidden):
    url = server.add("/a", host.redirect(f"http://inside.example:{forbidden.port}/secret"))
    async with fetching(lookup=Names(inside_example=[["127.0.0.2"]])) as fetcher:
        with pytest.raises(MediaNotReachable, match=r"without a public address: inside\.example"):
            await fetcher.fetch(image(url), minute())
    assert_untouched(forbidden)


async def test_a_redirect_to_a_foreign_domain_is_refused_before_that_is_resolved(server):
    names = Names(media_example=[["127.0.0.1"]], foreign_example=[["127.0.0.1"]])
    server.add("/a", host.redirect(f"http://foreign.example:{server.port}/b"))
    async with fetching(lookup=names, allowed_domains=["media.example"]) as fetcher:
        with pytest.raises(MediaNotReachable, match=r"does not fetch from: foreign\.example"):
            await fetcher.fetch(image(f"http://media.example:{server.port}/a"), minute())
    assert names.asked == ["media.example"]
    assert server.hits("/b") == 0


async def test_a_name_is_resolved_once_and_the_checked_address_is_dialled(server, forbidden):
    server.add("/a.png", host.serve(PNG))
    names = Names(rebind_example=[["127.0.0.1"], ["127.0.0.2"]])  # the second answer would lead inside
    async with fetching(lookup=names) as fetcher:
        await fetcher.fetch(image(f"http://rebind.example:{server.port}/a.png"), minute())
        await fetcher.fetch(image(f"http://rebind.example:{server.port}/a.png?2"), minute())
    assert names.asked == ["rebind.example"]
    assert server.hits_seen[0].headers["host"] == f"rebind.example:{server.port}"
    assert_untouched(forbidden)


async def test_one_private_address_among_public_ones_refuses_the_host(server):
    async with fetching(lookup=Names(mixed_example=[["127.0.0.1", "10.0.0.1"]])) as fetcher:
        with pytest.raises(MediaNotReachable, match="without a public address"):
            await fetcher.fetch(image(f"http://mixed.example:{server.port}/a"), minute())
    assert_untouched(server)


@pytest.mark.parametrize("name", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1"])
async def test_odd_forms_of_an_allowed_address_are_refused_too(server, name):
    async with fetching() as fetcher:
        with pytest.raises(MediaNotReachable, match="plain name or address"):
            await fetcher.fetch(image(f"http://{name}:{server.port}/a"), minute())
    assert_untouched(server)


async def test_private_and_unknown_hosts_get_the_same_words():
    said = []
    async with fetching(lookup=Names(a_example=[["10.0.0.1"]], c_example=[[]])) as fetcher:
        for name in ("a.example", "b.example", "c.example"):
            with pytest.raises(MediaNotReachable) as refused:
                await fetcher.fetch(image(f"http://{name}/a"), minute())
            said.append((refused.value.message.replace(name, "x"), refused.value.status, refused.value.code))
    assert len(set(said)) == 1
    assert "without a public address" in said[0][0]


async def test_a_stalled_look_up_ends_inside_the_deadline():
    async with fetching(lookup=silent) as fetcher:
        with pytest.raises(StageTimeout):
            await fetcher.fetch(image("http://media.example/a"), Deadline(0.1, "request"))


async def test_a_stalled_look_up_is_given_up_like_a_stalled_connection():
    async with fetching(lookup=silent, lookup_timeout_s=0.05, max_retries=0) as fetcher:
        with pytest.raises(MediaHostError, match=r"looking up media\.example took too long") as failed:
            await fetcher.fetch(image("http://media.example/a"), minute())
    assert type(failed.value) is MediaHostError  # nothing of this room leaves it


async def test_silent_names_of_one_client_hold_up_nobody_elses(server):
    server.add("/a.png", host.serve(PNG))

    async def lookup(name):
        return await silent(name) if name.startswith("silent") else ["127.0.0.1"]

    async with fetching(lookup=lookup) as fetcher, asyncio.TaskGroup() as group:
        urls = [f"http://silent{i}.example{i}/" for i in range(400)]
        urls.append(f"http://good.example:{server.port}/a.png")  # behind them, so that nobody waits at this name
        attack = [group.create_task(fetcher.fetch(image(url, "attacker"), minute())) for url in urls]
        await asyncio.sleep(0.05)
        fetched, _ = await fetcher.fetch(image(urls[-1] + "?other", "other"), minute())
        assert not any(task.done() for task in attack)
        for task in attack:
            task.cancel()
    assert fetched.container == "png"


async def silent(name):
    await asyncio.sleep(3600)


async def test_environment_proxies_are_not_used(server, forbidden, monkeypatch):
    monkeypatch.setenv("http_proxy", forbidden.url(""))
    monkeypatch.setenv("HTTP_PROXY", forbidden.url(""))
    async with fetching() as fetcher:
        await fetcher.fetch(image(server.add("/a.png", host.serve(PNG))), minute())
    assert_untouched(forbidden)


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_https_shows_the_name_in_sni_and_host_and_checks_the_certificate_for_it(certificate):
    serving, trusting, seen = certificate
    with host.MediaServer(ssl_context=serving) as server:
        server.add("/a.png", host.serve(PNG))
        names = Names(media_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])
        async with fetching(lookup=names, ssl_context=trusting, max_retries=0) as fetcher:
            _, data = await fetcher.fetch(image(f"https://Media.example.:{server.port}/a.png"), minute())
            assert data.tobytes() == PNG
            assert seen[-1] == "media.example"
            assert server.hits_seen[-1].headers["host"] == f"media.example:{server.port}"
            with pytest.raises(MediaHostError, match=r"no trusted TLS connection to other\.example"):
                await fetcher.fetch(image(f"https://other.example:{server.port}/a.png"), minute())
            assert len(server.hits_seen) == 1


async def test_an_untrusted_certificate_is_refused(certificate):
    serving, _, _ = certificate
    with host.MediaServer(ssl_context=serving) as server:
        async with fetching(lookup=Names(media_example=[["127.0.0.1"]]), max_retries=0) as fetcher:
            with pytest.raises(MediaHostError, match="no trusted TLS connection"):
                await fetcher.fetch(image(f"https://media.example:{server.port}/a"), minute())
        assert server.hits_seen == []


# ── the system's resolver ────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_systems_resolver_knows_this_machine(server):
    url = f"http://localhost:{server.port}/a.png"
    server.add("/a.png", host.serve(PNG))
    async with fetching(allowed_networks=["127.0.0.0/8", "::1/128"]) as fetcher:
        _, data = await fetcher.fetch(image(url), minute())
    assert data.tobytes() == PNG
