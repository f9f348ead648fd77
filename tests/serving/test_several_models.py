"""Several models behind one port, on Ray: each answers for itself, and one that nobody asks for takes no replica."""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.support.application import SERVE_CONFIG
from tests.support.launching import Running, launched
from tests.support.media_files import make_picture
from tests.support.serve_files import deployments_of, with_models
from tests.support.tiny_checkpoints import save_text_model

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


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The demo, and a tiny model of text alone that has no replica of its own until it is asked."""
    folder = tmp_path_factory.mktemp("several")
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
    with launched(folder, ["--config", str(path)], RAY_SERVE_CONTROL_LOOP_INTERVAL_S="0.25") as running:
        yield running


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
