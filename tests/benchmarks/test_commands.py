"""The programs themselves, run against a fake server: that they come to their end and tell what they saw."""

import sys

import pytest

from benchmarks.kit.servers import OwnServer
from benchmarks.serving import frame_rates, overload, rates, serve
from tests.benchmarks.fake_openai import FakeServer


@pytest.fixture
def fake_url(serve_fake):
    return serve_fake(FakeServer()).url


def test_serve_compares_servers_by_url(fake_url):
    argv = ["--url", f"ours={fake_url}", "--against", f"theirs={fake_url}", "--mix", "text", "--duration", "0.5"]
    line = serve.main([*argv, "--rate", "20", "--timeout", "5"])
    idle, loaded = line["tables"]
    assert [row[0] for row in idle["rows"]] == ["ours", "theirs"]
    assert [row[1] for row in loaded["rows"]] == ["ours", "theirs"]
    assert all(
        run["verdicts"]["failed"] == 0 for runs in line["results"]["mixes"]["text"]["loaded"].values() for run in runs
    )
    assert "ours" in line["answer"]


def test_overload_tells_each_multiple_of_the_capacity(fake_url):
    argv = [
        "--url",
        fake_url,
        "--mix",
        "text",
        "--duration",
        "0.5",
        "--users",
        "2",
        "--load",
        "0.01",
        "0.05",
        "--calm",
        "0",
    ]
    line = overload.main(argv)
    answers, refusals, _ = line["tables"]
    assert [row[0] for row in answers["rows"]] == [row[0] for row in refusals["rows"]] == ["0.01x", "0.05x"]
    assert len(line["plots"]) == 2


def test_rates_counts_everything_but_an_answer_as_an_error(fake_url):
    line = rates.main(["--url", f"ours={fake_url}", "--against", "--mix", "text", "--rate", "20", "--duration", "0.5"])
    (row,) = line["tables"][0]["rows"]
    assert row[:6] == [20.0, "ours", "0%", 0, 0, 0]
    assert rates.error_rate({"sent": 4, "verdicts": {"answered": 1}}) == 0.75


def test_frame_rates_measures_each_rate_with_each_number_of_users(fake_url):
    argv = [
        "--url",
        f"ours={fake_url}",
        "--fps",
        "1",
        "2",
        "--users",
        "1",
        "3",
        "--duration",
        "0.2",
        "--clip",
        "64x64@1s",
    ]
    line = frame_rates.main(argv)
    assert [row[:3] for row in line["tables"][0]["rows"]] == [
        ["ours", fps, users] for users in (1, 3) for fps in (1.0, 2.0)
    ]
    assert len(line["plots"][0]["series"]) == 2


def test_a_server_that_ends_at_its_start_says_why():
    def command(port, folder):
        return [sys.executable, "-c", "import sys; sys.exit('no such checkpoint')"]

    with pytest.raises(RuntimeError, match="no such checkpoint"), OwnServer("broken", command, "/health", {}):
        pass
