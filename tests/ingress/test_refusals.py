"""Refusals cost little and are all counted."""

import json
import logging

import pytest

from deployments.config import AppConfig, IngressConfig
from deployments.core.deadline import Deadline
from deployments.ingress.http.refusals import LINES
from tests.support.fakes import FakeApplication

ROUTE = "/v1/chat/completions"


async def test_of_many_refusals_few_are_logged_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(max_running_text=1, max_running_media=1, max_wait_s=0.001)))
    for lane in (app.lanes.text, app.lanes.media):
        lease = await lane.acquire("other", 0, Deadline(60, "test"))
        lease.granted_at -= 60  # nobody has left for a minute: the wait is long
    with caplog.at_level(logging.INFO, "sluice.access"):
        async with app.client() as client:
            for _ in range(LINES + 20):
                answer = await client.post(ROUTE, json={"model": "demo", "messages": []})
                assert answer.status_code == 429
            app.api.report()
            app.api.report()
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert [line.get("status") for line in lines] == [429] * LINES + [None]
    assert lines[-1]["message"].startswith("20 more ")
    assert app.metrics.values["sluice_refused", ("overloaded",)] == LINES + 20
    assert app.metrics.values["sluice_requests", (ROUTE, "429")] == LINES + 20
