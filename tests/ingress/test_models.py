"""Several models behind one ingress: each request reaches its own, and none of them holds up another."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.errors import Overloaded
from deployments.ingress.http.waking import FIRST_GUESS_S, Waking
from tests.ingress.test_batches import begun, ended, line, told, working
from tests.support.fakes import PROFILE, FakeApplication

MODELS: dict[str, Any] = {
    "quick": {},
    "org/slow": {"engine": {"max_context_tokens": 100}, "preprocessor": {"allowed_processor_kwargs": ["min_pixels"]}},
}
PICTURE = [{"type": "image_url", "image_url": {"url": "https://media.example/x"}}]


def two_models(**sections: Any) -> AppConfig:
    return AppConfig.model_validate({"models": MODELS, **sections})


def application(**sections: Any) -> FakeApplication:
    return FakeApplication(two_models(**sections))


async def get(app: FakeApplication, path: str) -> Any:
    async with app.client() as client:
        return await client.get(path)


async def test_a_request_reaches_the_model_that_it_names_and_no_other() -> None:
    app = application()
    for name, asked in app.models.items():
        answer = await app.chat(PICTURE, model=name)
        assert (answer.status_code, answer.json()["model"]) == (200, name)
        assert len(asked.model.calls) == 1
    assert len(app.fetcher.calls) == 2
    assert app.metrics.values["sluice_completion_tokens", ("quick",)] == 3
    assert app.metrics.values["sluice_prompt_tokens", ("image", "org/slow")] == 5


async def test_every_endpoint_says_whose_answer_it_is() -> None:
    app = application()
    asked: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "x"},
        "/v1/responses": {"input": "x"},
        "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4},
    }
    async with app.client() as client:
        for path, body in asked.items():
            answer = await client.post(path, json={"model": "org/slow", **body})
            assert (answer.status_code, answer.json()["model"]) == (200, "org/slow"), answer.text
    assert len(app.models["org/slow"].model.calls) == len(asked)


async def test_all_models_are_listed_and_an_unknown_one_is_not_found() -> None:
    app = application()
    assert [card["id"] for card in (await get(app, "/v1/models")).json()["data"]] == list(MODELS)
    assert (await get(app, "/v1/models/org/slow")).json()["id"] == "org/slow"
    for missing in (await get(app, "/v1/models/other"), await app.chat("hi", model="other")):
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        assert "this server has 'quick', 'org/slow'" in missing.json()["error"]["message"]


async def test_an_adapter_is_refused_with_what_can_be_done_instead() -> None:
    refused = await application().chat("hi", model="quick:french")
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "model")
    assert "loads no adapters beside 'quick': merged into its weights" in refused.json()["error"]["message"]


async def test_limits_and_options_are_those_of_the_model_that_is_asked() -> None:
    app = application()
    limits = {name: (await get(app, f"/v1/limits?model={name}")).json() for name in MODELS}
    assert {name: said["context_length"] for name, said in limits.items()} == {"quick": 4096, "org/slow": 100}
    unnamed = await get(app, "/v1/limits")
    assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "model")
    options = {"mm_processor_kwargs": {"max_pixels": 1000}}
    assert (await app.chat(PICTURE, model="quick", **options)).status_code == 200
    assert (await app.chat(PICTURE, model="org/slow", **options)).status_code == 400


async def test_tokens_are_those_of_a_model_that_must_be_named() -> None:
    app = application()
    for stages in app.models.values():
        stages.preprocessor.answers["detokenize"] = lambda ids: ("text", None)
    async with app.client() as client:
        for path, body in {"/tokenize": {"prompt": "hi"}, "/detokenize": {"tokens": [1]}}.items():
            assert (await client.post(path, json=body)).status_code == 400
            assert (await client.post(path, json={**body, "model": "quick"})).status_code == 200
            assert (await client.post(path, json={**body, "model": "other"})).status_code == 404
    assert not app.models["org/slow"].preprocessor.calls


async def test_what_is_decoded_for_one_model_is_found_by_another_that_wants_the_same() -> None:
    app = application()
    clip = [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,QUJD"}}]
    digests = app.fetcher.answers["fetch"]
    app.fetcher.answers["fetch"] = lambda item: (replace(digests(item)[0], digest="d"), digests(item)[1])
    for name in MODELS:
        assert (await app.chat(clip, model=name)).status_code == 200
    assert len(app.decoder.calls) == 1


async def test_what_a_model_takes_is_its_own() -> None:
    app = application()
    app.models["quick"].preprocessor.answers["profile"] = lambda: (replace(PROFILE, modalities=frozenset()), None)
    assert (await app.chat(PICTURE, model="quick")).status_code == 400
    assert (await app.chat(PICTURE, model="org/slow")).status_code == 200


# ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_model_without_room_refuses_and_the_other_answers() -> None:
    app = application(ingress={"max_running_text": 1, "max_waiting": 1, "max_wait_s": 0.01, "max_burst_wait_s": 0.01})
    full = app.api.admission.lanes["org/slow"].text
    lease = await full.acquire("other", 0, Deadline(60, "test"))
    lease.granted_at -= 60  # nobody has left for a minute: the wait is long
    refused = await app.chat("hi", model="org/slow")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, Overloaded.code)
    assert (await app.chat("hi", model="quick")).status_code == 200
    lease.release()
    app.api.report()
    assert app.metrics.values["sluice_requests_waiting", ("org/slow",)] == 0


async def test_models_share_the_bytes_of_media_in_turn() -> None:
    """A large request is not passed by small ones for another model, and then it is their turn."""
    app = FakeApplication(two_models(), media_bytes=100)
    admission = app.api.admission

    def ask(model: str, size: int) -> "asyncio.Task[Any]":
        return asyncio.create_task(admission.admit(model, model, size, Deadline(60, "test")))

    first = await ask("quick", 60)
    large, small, next_large = ask("org/slow", 80), ask("quick", 10), ask("org/slow", 95)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not large.done()
    assert not small.done()
    assert (await admission.admit("quick", "quick", 0, Deadline(60, "test"))).size_bytes == 0  # text takes none of it
    first.release()
    (await large), (await small)
    assert not next_large.done()
    assert admission.media.held_bytes == 90
    large.result().release()
    small.result().release()
    (await next_large).release()
    assert admission.media.held_bytes == 0


async def test_who_gives_up_waiting_for_bytes_makes_way_for_another_model() -> None:
    app = FakeApplication(two_models(), media_bytes=100)
    admission = app.api.admission
    held = await admission.admit("quick", "a", 60, Deadline(60, "test"))
    large = asyncio.create_task(admission.admit("org/slow", "b", 80, Deadline(60, "test")))
    await asyncio.sleep(0)
    small = asyncio.create_task(admission.admit("quick", "c", 30, Deadline(60, "test")))
    await asyncio.sleep(0)
    assert not small.done()
    large.cancel()
    async with asyncio.timeout(5):
        (await small).release()
    held.release()
    assert admission.media.held_bytes == 0


# ── models that come and go ──────────────────────────────────────────────────────────────────────────────────────────


async def test_one_model_that_starts_keeps_no_other_from_answering() -> None:
    app = FakeApplication(two_models(), missing={"Model:org/slow": "no card"})
    said = await get(app, "/ready")
    assert (said.status_code, said.json()) == (
        200,
        {
            "status": "partly ready",
            "waiting_for": ["Model:org/slow"],
            "reasons": {"Model:org/slow": "no card"},
            "models": {"quick": "ready", "org/slow": "starting"},
        },
    )
    assert (await app.chat("hi", model="quick")).status_code == 200
    refused = await app.chat("hi", model="org/slow")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stage_starting")
    assert app.missing is not None
    app.missing["Preprocessor:quick"] = None
    await app.api.readiness.look()
    assert (await get(app, "/ready")).status_code == 503


async def test_a_model_that_starts_beside_an_idle_one_is_waited_for() -> None:
    app = FakeApplication(two_models(), missing={"Model:quick": None}, idle={"Model:org/slow"})
    said = await get(app, "/ready")
    assert (said.status_code, said.json()["status"]) == (503, "starting")
    assert said.json()["models"] == {"quick": "starting", "org/slow": "idle"}
    assert app.missing is not None
    app.missing.clear()
    await app.api.readiness.look()
    said = await get(app, "/ready")
    assert (said.status_code, said.json()["status"]) == (200, "ready")


async def test_an_idle_model_is_ready_and_its_first_request_makes_it_start_once() -> None:
    app = FakeApplication(idle={"Model", "Preprocessor"})
    ready = await get(app, "/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "idle", "idle": ["Model", "Preprocessor"]})
    for _ in range(3):
        early = await app.chat("hi")
        assert (early.status_code, early.json()["error"]["code"]) == (503, "stage_starting")
        assert "was idle and is being started" in early.json()["error"]["message"]
        assert int(early.headers["retry-after"]) == FIRST_GUESS_S
    await asyncio.sleep(0)
    assert sorted(app.woken) == ["Model", "Preprocessor"]
    assert not app.model.calls
    app.awaken.set()
    await asyncio.sleep(0.01)
    assert (await get(app, "/ready")).json() == {"status": "ready"}
    assert (await app.chat("hi")).status_code == 200


async def test_a_request_that_is_refused_anyway_starts_nothing() -> None:
    app = FakeApplication(idle={"Model"})
    assert (await app.chat("hi", temperature=-1)).status_code == 400
    assert (await app.chat("hi", model="other")).status_code == 404
    assert not app.woken


async def test_an_idle_fetcher_or_decoder_is_waited_for() -> None:
    app = FakeApplication(idle={"MediaFetcher", "VideoDecoder"})
    assert (await get(app, "/ready")).json() == {"status": "ready", "idle": ["MediaFetcher", "VideoDecoder"]}
    assert (await app.chat(PICTURE)).status_code == 200


async def test_how_long_a_start_takes_is_learnt_from_the_last_one() -> None:
    now, started, looks = [0.0], asyncio.Event(), []

    async def wake(stage: str) -> None:
        await started.wait()

    async def woken() -> None:
        looks.append(now[0])

    waking = Waking(wake, woken, lambda: now[0])
    assert waking.left_s("Model") is None
    waking.ask_for("Model")
    await asyncio.sleep(0)
    now[0] = 40.0
    assert waking.left_s("Model") == 1.0  # it takes longer than was guessed: soon, then
    started.set()
    await asyncio.sleep(0.01)
    assert (waking.left_s("Model"), looks) == (None, [40.0])
    started.clear()
    waking.ask_for("Model")
    await asyncio.sleep(0)
    now[0] = 50.0
    assert waking.left_s("Model") == pytest.approx(30.0)
    await waking.close()


async def test_lines_of_a_batch_wait_until_their_model_has_started(tmp_path: Path) -> None:
    app = FakeApplication(
        AppConfig.model_validate({"models": MODELS, "ingress": {"batch_folder": str(tmp_path)}}),
        idle={"Model:org/slow"},
    )
    async with working(app) as client:
        batch = await begun(client, *(_line(name) for name in MODELS))
        async with asyncio.timeout(30):
            while not app.woken:
                await asyncio.sleep(0.01)
        app.awaken.set()
        batch = await ended(client, batch.id)
        answers = await told(client, batch.output_file_id)
    assert {name: answer["response"]["body"]["model"] for name, answer in answers.items()} == {n: n for n in MODELS}


def _line(model: str) -> bytes:
    document = orjson.loads(line(model))
    document["body"]["model"] = model
    return orjson.dumps(document)
