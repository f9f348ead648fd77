"""The siege against a fake server: that it comes to its end and tells what became of users and attackers."""

from benchmarks.hostile import siege
from tests.benchmarks.fake_openai import FakeServer


def test_a_siege_tells_what_users_and_attackers_got(serve_fake):
    url = serve_fake(FakeServer()).url
    argv = [
        "--url",
        url,
        "--mix",
        "text",
        "--minutes",
        "0.03",
        "--rate",
        "20",
        "--kinds",
        "ids,nesting,answers,bombs,heads",
        "--niceness",
        "0",  # on a busy machine they would never have their turn
    ]
    line = siege.main(argv)
    users, attackers, promises = line["tables"]
    assert [row[0] for row in users["rows"]] == ["alone", "besieged", "afterwards"]
    assert {row[0] for row in attackers["rows"]} >= {"ids", "nesting", "answers", "bombs"}
    assert line["results"]["besieged"]["verdicts"]["failed"] == 0
    assert {row[3] for row in promises["rows"]} <= {"kept", "MISSED"}
    assert "goodput" in line["answer"]


def test_promises_that_are_missed_are_told():
    run = {"goodput": 1.0, "offered_rate": 1.0, "health_s": {"p99": 0.01}, "verdicts": {"failed": 0}, "sent": 9}
    kept = {"alone": run, "besieged": run, "grown_bytes": 0, "before_bytes": 10, "left_bytes": 10}
    assert all(holds for *_, holds in siege._promises(kept))
    worse = run | {"goodput": 0.8, "health_s": {"p99": 0.2}, "verdicts": {"failed": 1}}
    missed = kept | {"besieged": worse, "grown_bytes": 2**40, "left_bytes": 20}
    assert not any(holds for *_, holds in siege._promises(missed))
