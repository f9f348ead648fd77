import pytest

from benchmarks.kit.load.outcome import Outcome, Probe, Slo, percentiles, summary


def outcome(due_s=0.0, ended_s=1.0, verdict="answered", first=0.5, last=0.9, tokens=5, **more):
    return Outcome(
        kind=more.pop("kind", "text"),
        due_s=due_s,
        sent_s=more.pop("sent_s", due_s),
        ended_s=ended_s,
        verdict=verdict,
        first_text_s=first,
        last_text_s=last,
        tokens=tokens,
        **more,
    )


def test_latencies_count_from_the_schedule_not_from_the_sending():
    late = outcome(due_s=1.0, sent_s=3.0, ended_s=5.0, first=4.0, last=4.8)
    assert late.ttft_s == 3.0
    assert late.e2e_s == 4.0


def test_itl_is_the_mean_over_tokens_not_over_pieces():
    assert outcome(first=1.0, last=3.0, tokens=5).itl_s == 0.5
    assert outcome(tokens=1).itl_s is None
    assert outcome(first=None, last=None).itl_s is None


def test_percentiles_interpolate_and_ignore_absent_values():
    values = percentiles([None, *range(101)])
    assert values == {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert percentiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0, "max": 3.0}
    assert percentiles([]) == {"p50": None, "p90": None, "p99": None, "max": None}


@pytest.mark.parametrize(
    ("candidate", "kept"),
    [
        (outcome(first=2.0, last=2.1), True),
        (outcome(first=2.01, last=2.1), False),
        (outcome(first=1.0, last=1.81, tokens=5), False),
        (outcome(first=1.0, last=1.0, tokens=1), True),
        (outcome(verdict="failed"), False),
    ],
)
def test_slo_asks_for_all_of_its_limits(candidate, kept):
    assert Slo(ttft_s=2.0, itl_s=0.2).kept(candidate) is kept


def test_summary_counts_each_request_once_and_rates_over_the_whole_span():
    outcomes = [
        outcome(ended_s=1.0, kind="text"),
        outcome(due_s=1.0, ended_s=20.0, first=15.0, last=15.1, kind="video"),  # answered, but not in time
        outcome(verdict="refused", ended_s=0.25, reason="http 429", retry_after="3", first=None, last=None),
        outcome(verdict="failed", reason="http 500", ended_s=30.0, first=None, last=None),
    ]
    probes = [Probe(0.0, 0.01, True), Probe(0.1, 0.02, False)]
    figures = summary(outcomes, probes, Slo(), duration_s=10.0)
    assert figures["sent"] == 4
    assert figures["verdicts"] == {"answered": 2, "refused": 1, "expired": 0, "gave_up": 0, "failed": 1}
    assert figures["span_s"] == 20.0  # the failed one's end is nobody's throughput
    assert figures["answered_rate"] == 2 / 20
    assert figures["goodput"] == 1 / 20
    assert figures["offered_rate"] == 4 / 10
    assert figures["refusal_s"]["max"] == 0.25
    assert figures["refused_with_retry_after"] == 1
    assert figures["reasons"] == {"http 429": 1, "http 500": 1}
    assert figures["health_failed"] == 1
    assert set(figures["kinds"]) == {"text", "video"}


def test_summary_of_nothing_has_no_latencies():
    figures = summary([], [], Slo(), duration_s=2.0)
    assert figures["goodput"] == 0
    assert figures["ttft_s"]["p50"] is None
