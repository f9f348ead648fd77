"""The page of results, made from the JSON lines in `results/`: no figure is typed by hand.

`results/NAME.json` is written by `--json`; its last line counts. Each becomes a section of README.md: the question, the
answer in a sentence, tables, plots (`results/NAME-1.svg`, ...), command, machine and versions. Another run of the same
benchmark that shall stand beside it is `results/NAME-WHAT.json`, by `--json FILE`. The page begins with a few of the
figures, and what each was one record before.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kit.harness import markdown_table
from benchmarks.kit.headlines import headline_table
from benchmarks.kit.plots import svg

_INTRODUCTION = """# Benchmarks

Each file here answers one question with one command, prints the machine, versions, seed and command, and ends with one
JSON line. This page is written by `python -m benchmarks --report` from the lines in `results/`; `--json` adds a line.

```bash
python -m benchmarks --quick            # short runs, but of those that watch minutes; tells what each took
python -m benchmarks serve --help       # one of them; any OpenAI-compatible server can be measured by its URL
```

Absolute figures move with the machine; ratios taken within one run are what counts. TTFT, ITL and goodput are defined
in [`kit/load/outcome.py`](kit/load/outcome.py): latencies count from the moment a request was due, so that a slow
server can't hide its queue behind a slow client. The load generator runs on the same machine as the servers, in its own
process,
and takes its share of the cores. `mixed` is 40 % texts of 20 words, 30 % JPEGs of 640x480 and 30 % clips of 5 s
(360p, H.264, a key frame each 250 frames); no file is sent twice unless a command says so. Other servers can join a
comparison, see [`kit/peers.py`](kit/peers.py).
"""


def write_report(results_dir: Path, order: Sequence[str]) -> Path:
    """Write README.md beside `results_dir`, and the plots into it; sections in `order`, others after them by name."""
    records = {path.stem: _records(path) for path in sorted(results_dir.glob("*.json"))}
    lines = {stem: of_stem[-1] for stem, of_stem in records.items()}
    ranks = {name: rank for rank, name in enumerate(order)}
    stems = sorted(lines, key=lambda stem: (ranks.get(lines[stem]["benchmark"], len(ranks)), stem))
    page = [
        _INTRODUCTION,
        markdown_table(headline_table(records)) + "\n",
        _contents({stem: lines[stem] for stem in stems}),
    ]
    for stale in results_dir.glob("*.svg"):
        stale.unlink()
    page += [_section(stem, lines[stem], results_dir) for stem in stems]
    path = results_dir.parent / "README.md"
    path.write_text("\n".join(page), encoding="utf-8")
    return path


def _records(path: Path) -> list[dict[str, Any]]:
    """The newest is the last."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").strip().splitlines()]


def _contents(lines: Mapping[str, Mapping[str, Any]]) -> str:
    headings = {stem: _heading(stem, line) for stem, line in lines.items()}
    rows = [[f"[{headings[stem]}](#{_anchor(headings[stem])})", line.get("answer", "")] for stem, line in lines.items()]
    return markdown_table({"title": "", "columns": ["question", "answer"], "rows": rows}) + "\n"


def _heading(stem: str, line: Mapping[str, Any]) -> str:
    """The question, and what tells this run from the benchmark's usual one."""
    what = stem.removeprefix(line["benchmark"]).removeprefix("-")
    return f"{line['question']} ({what})" if what else str(line["question"])


def _anchor(heading: str) -> str:
    """As GitHub names it: lower case, spaces as hyphens, punctuation left out."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _section(stem: str, line: Mapping[str, Any], results_dir: Path) -> str:
    parts = [f"## {_heading(stem, line)}", line.get("answer", "")]
    parts += [markdown_table(table) for table in line.get("tables", ())]
    if not line.get("tables"):
        parts.append(markdown_table(_flat_table(line["results"])))
    for number, plot in enumerate(line.get("plots", ()), start=1):
        name = f"{stem}-{number}.svg"
        (results_dir / name).write_text(svg(plot), encoding="utf-8")
        parts.append(f"![{plot['title']}]({results_dir.name}/{name})")
    parts.append(f"```bash\n{line['command']}\n```")
    parts.append(_setting(line))
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(line: Mapping[str, Any]) -> str:
    """Where the figures come from, in one line."""
    machine = line["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    if "gpu" in machine:
        where += f", {machine['gpu']}"
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    took = f"; took {line['seconds']} s" if "seconds" in line else ""
    return f"<sub>{line.get('date', '')}: {where}; {versions}; seed {line.get('seed', 0)}{took}.</sub>"


def _flat_table(results: Any, prefix: str = "") -> dict[str, Any]:
    """Plain results as rows `path, value`, for a benchmark that keeps no tables of its own."""
    rows: list[list[object]] = []
    pairs = results.items() if isinstance(results, Mapping) else enumerate(results)
    for key, value in pairs:
        path = f"{prefix}{key}"
        if isinstance(value, Mapping | list):
            rows += _flat_table(value, f"{path}.")["rows"]
        else:
            rows.append([path, value])
    return {"title": "", "columns": ["figure", "value"], "rows": rows}
