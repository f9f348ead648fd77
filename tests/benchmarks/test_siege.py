"""The siege against a fake server: that it comes to its end and tells what became of users and attackers."""

from benchmarks.hostile import siege
from tests.benchmarks.fake_openai import FakeServer


def test_a_siege_tells_what_users_and_attackers_got(serve_fake):
    url = serve_fake(FakeServer()).url
    argv = ["--url", url, "--mix", "text", "--minutes", "0.05", "--rate", "20", "--kinds", "ids,nesting,answers"]
    line = siege.main(argv)
    users, attackers = line["tables"]
    assert [row[0] for row in users["rows"]] == ["alone", "besieged", "afterwards"]
    assert {row[0] for row in attackers["rows"]} == {"ids", "nesting", "answers"}
    assert line["results"]["besieged"]["verdicts"]["failed"] == 0
    assert "goodput" in line["answer"]
