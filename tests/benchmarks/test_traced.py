"""Clocks at the doors of stages: what they note, and that nothing else changes."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

import graph
from benchmarks.kit import traced
from benchmarks.kit.timeline import read_trace
from deployments.config import AppConfig
from deployments.serving.client import Stage
from deployments.stage_calls import StageResult
from deployments.types import Fetched, MediaKind, StageName

FETCHED = Fetched(kind=MediaKind.IMAGE, container="png", size_bytes=3, final_url=None, fetch_s=0.25)


@pytest.fixture
def trace(tmp_path, monkeypatch):
    monkeypatch.setenv(traced.TRACE_VARIABLE, str(tmp_path / "trace"))
    traced._file.cache_clear()
    yield tmp_path / "trace"
    traced._file.cache_clear()


class Worker:
    async def fetch(self, remaining_s: float, *payloads: Any) -> AsyncGenerator[Any, None]:
        yield FETCHED
        yield payloads


async def test_a_stage_notes_its_beginning_and_its_own_work_and_yields_what_it_did(trace):
    fetch = traced._noting(Worker.fetch, StageName.FETCH)
    assert [value async for value in fetch(Worker(), 1.0, b"data")] == [FETCHED, (b"data",)]
    (events,) = read_trace(trace).values()
    assert [(event.name, event.detail) for event in events] == [("fetch.entered", None), ("fetch.answers", 0.25)]


async def test_a_call_is_passed_on_with_all_that_belongs_to_it(trace, monkeypatch):
    async def call(self, *args, **options):
        return StageResult((args, options), None, 0.0)

    monkeypatch.setattr(Stage, "call", call)
    stage = traced._Stage.__new__(traced._Stage)
    stage._name = StageName.FETCH
    result = await stage.call("fetch", 1.0, answer_has_payload=False)
    assert result.meta == (("fetch", 1.0), {"answer_has_payload": False})
    (events,) = read_trace(trace).values()
    assert [event.name for event in events] == ["fetch.sent", "fetch.received"]


def test_the_application_is_the_one_that_graph_builds(monkeypatch):
    for name in ("MediaFetcher", "VideoDecoder", "Preprocessor", "Model"):
        monkeypatch.setattr(graph, name, getattr(graph, name))  # put back what `build` replaces
    for name in ("Stage", "put", "Api"):
        monkeypatch.setattr(traced.ingress_room, name, getattr(traced.ingress_room, name))
    plain, clocked = graph.build(AppConfig()), traced.build(AppConfig())
    names = [application._bound_deployment.name for application in (plain, clocked)]
    assert names == ["Ingress", "Ingress"]

    def stages(application: Any) -> list[str]:
        given = dict(application._bound_deployment.init_kwargs)
        bound = [*(stage for of_model in given.pop("models").values() for stage in of_model), *given.values()]
        return [stage._bound_deployment.name for stage in bound]

    assert stages(plain) == stages(clocked)
    assert len(stages(plain)) == 4
