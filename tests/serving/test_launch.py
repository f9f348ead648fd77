"""`sluice serve` as users start and stop it: a line when it is ready, a sentence when it can't be, no cut answers.

It serves one model behind HAProxy and, since each start takes as long as all else here, several behind Serve's own
proxy: each answers for itself, and one that nobody asks for takes no replica.
"""

import base64
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.application import SERVE_CONFIG
from tests.support.launching import COMMAND, Running, environment, launched
from tests.support.media_files import make_picture
from tests.support.serve_files import deployments_of, with_models
from tests.support.tiny_checkpoints import save_text_model

ONE, SEVERAL = "one model, HAProxy", "several models, proxy"
RARE = "org/rare"
PATIENCE_S = 120.0
SCALING = {
    "min_replicas": 0,
    "max_replicas": 1,
    "metrics_interval_s": 0.5,
    "look_back_period_s": 1.0,
    "downscale_delay_s": 3.0,
    "policy": {"policy_function": "deployments.autoscaling:by_load"},
}

LONG = {
    "model": "demo",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
    "ignore_eos": True,
    "max_tokens": 400,
}


@pytest.fixture(scope="module", params=[ONE, SEVERAL])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("launched")
    if request.param == ONE:
        arguments, variables = [], {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    else:
        arguments = ["--config", str(several_models(folder))]
        variables = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25"}
    with launched(folder, arguments, **variables) as running:
        yield running


def several_models(folder: Path) -> Path:
    """A file for the demo, and a tiny model of text alone that has no replica of its own until it is asked."""
    save_text_model(folder / "tiny")
    models: dict[str, dict[str, Any]] = {"demo": {}, RARE: {"model": str(folder / "tiny")}}
    tree = with_models(yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8")), models)
    for name, entry in deployments_of(tree).items():
        entry["ray_actor_options"] = {"num_cpus": 0.1}
        if name.endswith(f":{RARE}"):
            entry.pop("num_replicas", None)
            entry["autoscaling_config"] = SCALING
    path = folder / "several.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("running", [SEVERAL], indirect=True)
def test_a_model_at_zero_starts_when_it_is_asked_and_goes_again(running: Running) -> None:
    assert re.fullmatch(rf"ready: \S+  model demo on cpu, .*, model {RARE} idle; keys: none\n", running.ready)
    listed = httpx.get(f"{running.url}/v1/models").json()["data"]
    assert [card["id"] for card in listed] == ["demo", RARE]
    assert ready(running) == {
        "status": "ready",
        "idle": [f"Model:{RARE}", f"Preprocessor:{RARE}"],
        "models": {"demo": "ready", RARE: "idle"},
    }
    early = ask(running, RARE)
    assert (early.status_code, early.json()["error"]["code"]) == (503, "stage_starting")
    assert int(early.headers["retry-after"]) > 0

    picture = [{"type": "image_url", "image_url": {"url": data_url(make_picture("PNG"))}}]
    assert ask(running, "demo", picture).status_code == 200  # meanwhile
    answer = until_answered(running, RARE)
    assert (answer["model"], answer["usage"]["completion_tokens"]) == (RARE, 4)
    refused = ask(running, RARE, picture)
    assert (refused.status_code, "takes no image items" in refused.json()["error"]["message"]) == (400, True)
    limits = httpx.get(f"{running.url}/v1/limits", params={"model": RARE}).json()
    assert (limits["model"], limits["context_length"], limits["modalities"]) == (RARE, 512, [])
    wait_until(lambda: ready(running)["models"][RARE] == "idle")
    assert ask(running, "demo").status_code == 200
    assert ask(running, "other").status_code == 404


def test_it_says_when_it_is_ready_bounds_heads_and_finishes_answers_before_it_stops(running: Running) -> None:
    said = (
        rf"ready: (\S+)  model demo on cpu, \d+ tokens of KV cache, \d+ a request(, model {RARE} idle)?; keys: none\n"
    )
    found = re.fullmatch(said, running.ready)
    assert found is not None
    assert found[1] == running.url
    assert ready(running)["status"] == "ready"
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


def ask(running: Running, model: str, content: object = "hi") -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 4,
        "temperature": 0,
        "ignore_eos": True,
    }
    return httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60)


def ready(running: Running) -> dict[str, Any]:
    said: dict[str, Any] = httpx.get(f"{running.url}/ready", timeout=10).json()
    return said


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def until_answered(running: Running, model: str) -> dict[str, Any]:
    """As a client that comes back when it is told to, but sooner."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        answer = ask(running, model)
        if answer.status_code == 200:
            said: dict[str, Any] = json.loads(answer.content)
            return said
        assert answer.status_code == 503, answer.text
        time.sleep(0.25)
    raise AssertionError(f"{model} did not start")


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.25)


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
        ("applications: [{import_path: 'graph:build', args: {model: no/such}}]", "not in the local cache"),
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
