"""`sluice serve` as users start and stop it: a line when it is ready, a sentence when it can't be, no cut answers."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.launching import COMMAND, Running, environment, launched

LONG = {
    "model": "demo",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
    "ignore_eos": True,
    "max_tokens": 400,
}


@pytest.fixture(params=["haproxy", "proxy"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    with launched(tmp_path, RAY_SERVE_ENABLE_HA_PROXY="1" if request.param == "haproxy" else "0") as running:
        yield running


def test_it_says_when_it_is_ready_bounds_heads_and_finishes_answers_before_it_stops(running: Running) -> None:
    said = r"ready: (\S+)  model demo on cpu, \d+ tokens of KV cache, \d+ a request; keys: none\n"
    found = re.fullmatch(said, running.ready)
    assert found is not None
    assert found[1] == running.url
    assert httpx.get(f"{running.url}/ready").json() == {"status": "ready"}
    assert endless_header(running.url) in (400, 431)

    with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=LONG, timeout=60) as stream:
        events = stream.iter_lines()
        assert next(events).startswith("data: ")
        running.process.send_signal(signal.SIGTERM)
        refused = until_refused(running.url)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "stage_unavailable"
        assert httpx.get(f"{running.url}/health").status_code == 503
        assert httpx.get(f"{running.url}/ready").json() == {"status": "draining"}
        received = [json.loads(line[6:]) for line in events if line.startswith("data: {")]
        assert received[-1]["choices"][0]["finish_reason"] == "length"
    assert running.process.wait(60) == 0


def until_refused(url: str) -> httpx.Response:
    """The answer to a new request, asked until the server has heard of the signal."""
    while True:
        answer = httpx.post(f"{url}/v1/chat/completions", json={**LONG, "stream": False, "max_tokens": 1}, timeout=60)
        if answer.status_code != 200:
            return answer
        time.sleep(0.05)


def endless_header(url: str) -> int:
    """Status of the answer to a header line that does not end, at most 64 MB of it."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ")
        try:
            for _ in range(64):
                connection.sendall(b"a" * 2**20)
        except OSError:
            pass
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:  # closed before all that was sent had been read
            answer = b"HTTP/1.1 431 "
    assert httpx.get(f"{url}/health", timeout=10).status_code == 200
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("http_option: {port: 1}", "unknown key 'http_option': did you mean 'http_options'?"),
        ("applications: [{import_path: 'graph:build', args: {modle: demo}}]", "did you mean 'model'?"),
        ("applications: [{import_path: 'graph:build', args: {model: /nowhere/at/all}}]", "no folder '/nowhere/at/all'"),
        ("applications: [{import_path: 'graph:build', args: {model: no/such}}]", "not in the local cache"),
        ("applications: [{import_path: 'graph:build', args: {engine: {kv_cache_gib: 1.0e-6}}}]", "kv_cache_gib: 1e-06"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_sentence(tmp_path: Path, wrong: str, said: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(wrong, encoding="utf-8")
    ended = subprocess.run(
        [*COMMAND, "--config", str(path)], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("sluice: ")
    assert ended.stderr.count("\n") == 1
    assert said in ended.stderr
