"""The five figures that a stranger wants, in words that need no other page, and what each was before.

A figure is taken out of a benchmark's own results, so that every record of the past has it too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Any
"""Of one record, as its benchmark wrote them."""


@dataclass(frozen=True, slots=True)
class Headline:
    """A row."""

    record: str
    """Name of the file in `results/`."""
    says: str
    figure: Callable[[Results], float]
    unit: str
    beside: Callable[[Results], str] = lambda results: ""
    """What others reach, or what could be reached."""


def _best(results: Results, server: str) -> float:
    return max(float(run["goodput"]) for run in results["mixes"]["mixed"]["loaded"][server])


def _others(results: Results) -> str:
    others = [name for name in results["mixes"]["mixed"]["loaded"] if name != "Sluice"]
    return ", ".join(f"{name} {_best(results, name):.3g}" for name in others)


def _kept(results: Results) -> float:
    runs = results["runs"]
    return 100 * float(runs["10"]["goodput"]) / max(float(run["goodput"]) for run in runs.values())


HEADLINES = (
    Headline(
        "serve",
        "Texts, pictures and clips, mixed, on two CPU cores: answers in time, at best",
        lambda results: _best(results, "Sluice"),
        "a second",
        _others,
    ),
    Headline(
        "overload",
        "Ten times more requests than can be answered: useful answers, of the best rate",
        _kept,
        "%",
    ),
    Headline(
        "soak",
        "Twenty minutes of steady work: requests that failed",
        lambda results: float(results["run"]["verdicts"]["failed"]),
        "",
        lambda results: f"of {results['run']['sent']:,}",
    ),
    Headline(
        "media",
        "The wanted frames of a minute of 1080p, a key frame each 250: times as fast as a seek for each",
        lambda results: float(results["speeds"]["1080p 60 s, GOP 250"]["Sluice"]),
        "x",
        lambda results: f"torchcodec {results['speeds']['1080p 60 s, GOP 250']['torchcodec']:.3g}",
    ),
    Headline(
        "gpu",
        "One answer alone on a GPU, 7 billion weights: time of a token, in terms of reading the weights once",
        lambda results: float(results["decode"]["1: times the floor"]),
        "x",
        lambda results: str(results["card"]),
    ),
)


def headline_table(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """A `Benchmark.table` of the rows that have a record. `records`: by name, the newest last."""
    rows = [_row(headline, records[headline.record]) for headline in HEADLINES if records.get(headline.record)]
    return {"title": "", "columns": ["what", "now", "beside", "since"], "rows": rows}


def _row(headline: Headline, records: Sequence[Mapping[str, Any]]) -> list[str]:
    newest = records[-1]["results"]
    now = f"{headline.figure(newest):.3g} {headline.unit}".strip()
    return [headline.says, now, headline.beside(newest), _since(headline, records)]


def _since(headline: Headline, records: Sequence[Mapping[str, Any]]) -> str:
    """What the figure was in the record before, if that has it."""
    for record in reversed(records[:-1]):
        try:
            was = headline.figure(record["results"])
        except (KeyError, TypeError):  # it asked another question then
            continue
        return f"{was:.3g} on {record['date']}"
    return "first record"
