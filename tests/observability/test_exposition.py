"""`/metrics` shows all nodes' series once, and nothing but serving's."""

import gzip

from aiohttp import web
from aiohttp.test_utils import TestServer

from deployments.observability.exposition import ApplicationMetrics, merge

PAGE = """# HELP ray_sluice_fetches_total Fetches.
# TYPE ray_sluice_fetches_total counter
ray_sluice_fetches_total{{Component="core",NodeAddress="{node}",WorkerId="w",kind="video",otel_scope_name=""}} 3
# HELP ray_tasks Tasks of Ray itself.
# TYPE ray_tasks gauge
ray_tasks{{State="RUNNING"}} 1.0
# HELP ray_serve_latency_ms Latency.
# TYPE ray_serve_latency_ms histogram
ray_serve_latency_ms_bucket{{NodeAddress="{node}",le="1.0"}} 2
ray_serve_latency_ms_count{{NodeAddress="{node}"}} 2
"""


def test_two_nodes_make_one_page_with_each_family_declared_once() -> None:
    text = merge([PAGE.format(node="a"), PAGE.format(node="b")])
    assert text.count("# TYPE ray_sluice_fetches_total counter") == 1
    assert 'ray_sluice_fetches_total{NodeAddress="a",WorkerId="w",kind="video"} 3' in text
    assert 'ray_sluice_fetches_total{NodeAddress="b",WorkerId="w",kind="video"} 3' in text
    assert "ray_tasks" not in text


def test_what_serves_own_processes_tell_each_other_is_left_out() -> None:
    assert "long_poll" not in merge([PAGE.replace("latency_ms", "long_poll_latency_ms").format(node="a")])


def test_rays_histograms_come_as_summaries_and_our_own_with_their_buckets() -> None:
    ours = PAGE.replace("ray_serve_latency_ms", "ray_sluice_request_seconds")
    text = merge([PAGE.format(node="a"), ours.format(node="a")])
    assert "# TYPE ray_serve_latency_ms summary" in text
    assert 'ray_serve_latency_ms_count{NodeAddress="a"} 2' in text
    assert "ray_serve_latency_ms_bucket" not in text
    assert "# TYPE ray_sluice_request_seconds histogram" in text
    assert 'ray_sluice_request_seconds_bucket{NodeAddress="a",le="1.0"} 2' in text


def test_workers_are_told_apart_by_the_beginning_of_their_names() -> None:
    names = ["0123456789abcdef", "fedcba9876543210"]
    text = merge(PAGE.format(node="a").replace('WorkerId="w"', f'WorkerId="{name}"') for name in names)
    assert 'ray_sluice_fetches_total{NodeAddress="a",WorkerId="01234567",kind="video"} 3' in text
    assert 'ray_sluice_fetches_total{NodeAddress="a",WorkerId="fedcba98",kind="video"} 3' in text


def test_a_familys_series_stand_together() -> None:
    lines = merge([PAGE.format(node="a"), PAGE.format(node="b")]).splitlines()
    fetches = [n for n, line in enumerate(lines) if "sluice_fetches" in line]
    assert fetches == list(range(fetches[0], fetches[0] + len(fetches)))


async def test_a_dead_node_is_left_out_and_counted() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE.format(node="a"))

    app = web.Application()
    app.router.add_get("/metrics", page)
    async with TestServer(app) as server:
        alive = str(server.make_url("/metrics"))
        metrics = ApplicationMetrics(lambda: [alive, "http://127.0.0.1:9/metrics"])
        page = await metrics.page()
        await metrics.close()
    text = page.plain.decode()
    assert gzip.decompress(page.gzipped) == page.plain
    assert 'ray_sluice_fetches_total{NodeAddress="a"' in text
    assert text.endswith("# 1 of 2 nodes did not answer\n")
