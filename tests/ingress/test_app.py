"""Routes, and what every answer has in common."""

import asyncio
import logging

import httpx
import orjson
import pytest
from pydantic import SecretStr

from deployments.config import AppConfig, IngressConfig
from deployments.ingress.http.access_log import JsonLines
from deployments.ingress.http.clients import Clients
from tests.support.fakes import FakeApplication


async def get(app: FakeApplication, path: str, **headers: str) -> httpx.Response:
    async with app.client() as client:
        return await client.get(path, headers=headers)


async def test_models_are_listed_and_found_by_name() -> None:
    app = FakeApplication(AppConfig(served_model_name="org/model"))
    (card,) = (await get(app, "/v1/models")).json()["data"]
    assert (await get(app, "/v1/models/org/model")).json() == card
    assert card["id"] == "org/model"
    missing = await get(app, "/v1/models/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_ready_knows_of_every_stage_and_health_of_none() -> None:
    missing: dict[str, str | None] = {"Model": "no card", "VideoDecoder": None}
    app = FakeApplication(missing=missing)
    assert (await get(app, "/health")).status_code == 200
    starting = await get(app, "/ready")
    assert (starting.status_code, "retry-after" in starting.headers) == (503, True)
    assert starting.json() == {
        "status": "starting",
        "waiting_for": ["Model", "VideoDecoder"],
        "reasons": {"Model": "no card"},
    }
    missing.clear()
    await app.api.readiness.look()
    ready = await get(app, "/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


async def test_requests_are_told_to_come_back_while_a_stage_that_they_need_starts() -> None:
    app = FakeApplication(missing={"VideoDecoder": None})
    assert (await app.chat("hi")).status_code == 200
    video = [{"type": "video_url", "video_url": {"url": "http://media/x.mp4"}}]
    for refused in (await app.chat(video), await FakeApplication(missing={"Model": "no card"}).chat("hi")):
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "stage_starting"
        assert int(refused.headers["retry-after"]) > 0
    assert app.fetcher.calls == []


async def test_a_cluster_that_does_not_answer_changes_nothing() -> None:
    app = FakeApplication()
    assert (await get(app, "/ready")).status_code == 200
    app.missing = None
    await app.api.readiness.look()
    assert (await get(app, "/ready")).status_code == 200


async def test_a_stopping_server_takes_nothing_new_and_counts_what_runs() -> None:
    app = FakeApplication()
    app.model.gate = asyncio.Event()
    running = asyncio.create_task(app.chat("hi"))
    while not app.model.inside:
        await asyncio.sleep(0)
    assert app.api.drain() == 1
    refused = await app.chat("hi")
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, "the server is shutting down")
    for probe in ("/health", "/ready"):
        assert ((await get(app, probe)).status_code, (await get(app, probe)).json()) == (503, {"status": "draining"})
    app.model.gate.set()
    assert (await running).status_code == 200
    assert app.api.drain() == 0


async def test_the_front_page_is_the_playground_or_the_servers_name() -> None:
    page = await get(FakeApplication(), "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    plain = await get(FakeApplication(AppConfig(ingress=IngressConfig(playground=False))), "/")
    assert plain.json()["name"] == "sluice"


async def test_metrics_are_prometheus_text() -> None:
    response = await get(FakeApplication(), "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert response.text.startswith("# TYPE")


@pytest.mark.parametrize(
    ("accepted", "is_gzipped"),
    [("gzip, deflate", True), ("deflate;q=0.5, GZIP ; q=0.1", True), ("gzip;q=0.0", False), ("identity", False)],
)
async def test_metrics_are_compressed_for_who_takes_it(accepted: str, is_gzipped: bool) -> None:
    async with FakeApplication().client(headers={"accept-encoding": accepted}) as client:
        response = await client.get("/metrics")
    assert response.headers.get("content-encoding") == ("gzip" if is_gzipped else None)
    assert response.text.startswith("# TYPE")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/healthy", 404, "not_found"),
    ],
)
async def test_unknown_routes_and_methods_answer_in_the_same_shape(
    method: str, path: str, status: int, code: str
) -> None:
    async with FakeApplication().client() as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == code
    assert response.headers["x-request-id"]


async def test_a_harmless_request_id_is_kept_and_any_other_is_replaced() -> None:
    app = FakeApplication()
    assert (await get(app, "/health", **{"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
    for hostile in ("a b", "x" * 200, '{"a"}'):
        assert (await get(app, "/health", **{"x-request-id": hostile})).headers["x-request-id"] != hostile


async def test_the_answers_id_is_the_requests() -> None:
    response = await FakeApplication().chat("hi", headers={"x-request-id": "abc"})
    assert response.json()["id"] == "chatcmpl-abc"


async def test_a_body_that_declares_too_much_is_refused_before_it_is_read() -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(max_body_bytes=1000)))
    response = await app.chat("x" * 2000)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")


async def test_a_body_that_declares_nothing_is_counted() -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(max_body_bytes=1000)))

    async def endless():
        while True:
            yield b"x" * 100

    async with app.client() as client:
        response = await client.post(
            "/v1/chat/completions", content=endless(), headers={"content-type": "application/json"}
        )
    assert response.status_code == 413


async def test_broken_json_is_refused() -> None:
    async with FakeApplication().client() as client:
        for raw in (b"{", b"[]", b'"x"', b""):
            response = await client.post(
                "/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
            )
            assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_api_keys_guard_what_costs_something() -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(api_keys=(SecretStr("one"), SecretStr("two")))))
    for headers in ({}, {"authorization": "Bearer three"}, {"authorization": "Basic one"}, {"authorization": "one"}):
        refused = await app.chat("hi", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert (await get(app, "/v1/models", **headers)).status_code == 401
    assert (await app.chat("hi", headers={"authorization": "Bearer two"})).status_code == 200
    assert (await get(app, "/health")).status_code == 200


def test_clients_are_told_apart_by_key_or_address_and_no_key_shows() -> None:
    scope = {"type": "http", "headers": [(b"authorization", b"Bearer s3cret")], "client": ("10.1.2.3", 5)}
    keyed = Clients(IngressConfig(api_keys=(SecretStr("s3cret"),))).identify(scope)
    assert "s3cret" not in keyed
    assert Clients(IngressConfig()).identify(scope) == "address:10.1.2.3"


def test_a_forwarded_address_counts_only_where_it_is_configured() -> None:
    scope = {"type": "http", "headers": [(b"x-forwarded-for", b"1.2.3.4, 5.6.7.8")], "client": ("10.1.2.3", 5)}
    trusting = {"client_address_header": "x-forwarded-for"}
    assert Clients(IngressConfig()).identify(scope) == "address:10.1.2.3"
    assert Clients(IngressConfig(**trusting)).identify(scope) == "address:5.6.7.8"  # before it stands what anyone says
    assert Clients(IngressConfig(**trusting, trusted_proxies=2)).identify(scope) == "address:1.2.3.4"
    assert Clients(IngressConfig(**trusting, trusted_proxies=9)).identify(scope) == "address:1.2.3.4"
    scope["headers"].append((b"x-forwarded-for", b"9.9.9.9"))
    assert Clients(IngressConfig(**trusting)).identify(scope) == "address:9.9.9.9"


async def test_one_line_a_request_tells_what_happened_and_no_payload(caplog: pytest.LogCaptureFixture) -> None:
    app = FakeApplication()
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * 3000}}
    with caplog.at_level(logging.INFO, "sluice.access"):
        await app.chat([picture], headers={"x-request-id": "abc"})
        await app.chat([{"type": "data:image/png;base64," + "QUJD" * 3000}])
        await get(app, "/health")
    good, bad = (orjson.loads(record.message) for record in caplog.records)
    assert (good["id"], good["status"], good["items"], good["completion_tokens"]) == ("abc", 200, 1, 3)
    assert set(good["stages_ms"]) == {"admission", "fetch", "preprocess", "queue", "encode", "prefill", "decode"}
    assert (bad["status"], bad["error"]) == (400, "invalid_request")
    assert "QUJDQUJD" not in caplog.text


def test_what_is_not_about_a_request_is_a_line_of_json_too() -> None:
    try:
        raise ZeroDivisionError("by\nzero")
    except ZeroDivisionError as error:
        caught = (type(error), error, error.__traceback__)
    record = logging.LogRecord("sluice.access", logging.ERROR, "api.py", 1, "request %s failed", ("abc",), caught)
    line = JsonLines().format(record)
    assert "\n" not in line
    said = orjson.loads(line)
    assert (said["level"], said["message"]) == ("error", "request abc failed")
    assert "ZeroDivisionError" in said["traceback"]
