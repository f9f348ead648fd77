"""How well the demo model answers: `python -m deployments.demo.evaluate [--url http://127.0.0.1:8000]`.

Without `--url` through transformers alone, with it through a running server. Prints Markdown tables, a JSON line last.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

from tqdm import tqdm

from deployments.demo import CHECKPOINT_DIR
from deployments.demo.evaluation.cases import Case, Recipe, make_case, recipes
from deployments.demo.evaluation.offline import Offline
from deployments.demo.evaluation.sensitivity import sensitivity_table
from deployments.demo.evaluation.served import Served
from deployments.demo.evaluation.tables import Score
from deployments.demo.training.workers import at_once, use_one_thread

CARD = "README.md"
BEGIN, END = "<!-- written by deployments.demo.evaluate: {} -->", "<!-- end: {} -->"


def evaluate(asked: Sequence[Recipe], answerer: Offline | Served, workers: int, seconds: float | None) -> Score:
    """Ask about the fresh files of `asked`; for `seconds` at most, if they are given."""
    score, end = Score(), None if seconds is None else time.monotonic() + seconds
    answered = at_once(partial(_ask, answerer), asked, workers)
    for case, answers in tqdm(answered, total=len(asked), unit="case", mininterval=5):
        score.add(case, answers)
        if end is not None and time.monotonic() > end:
            break
    return score


def _ask(answerer: Offline | Served, recipe: Recipe) -> tuple[Case, Sequence[str]]:
    case = make_case(recipe)
    answers = answerer.answers(case)
    return replace(case, files=()), answers


def write_card(folder: Path, name: str, text: str) -> None:
    """Put `text` between the marks of section `name` in the model card."""
    card = folder / CARD
    begin, end = BEGIN.format(name), END.format(name)
    before, rest = card.read_text().split(begin)
    card.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="ask the server at this URL; default: the checkpoint itself")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT_DIR)
    parser.add_argument("--files", type=int, default=200, help="of each kind of request, or of ground")
    parser.add_argument("--seed", type=int, default=31, help="of the files; any but the training's gives fresh ones")
    parser.add_argument("--only", choices=["requests", "grounds"], help="one of the two tables; default: both")
    parser.add_argument("--sensitivity", type=int, default=50, help="files of each trial that spoils them; 0 for none")
    parser.add_argument("--together", type=int, default=8, help="requests at once, with --url")
    parser.add_argument("--workers", type=int, default=0, help="processes that make files and, without --url, answer")
    parser.add_argument("--budget-s", type=float, help="seconds for each table; default: as long as it takes")
    parser.add_argument("--card", action="store_true", help="write the tables into the model card")
    arguments = parser.parse_args()
    use_one_thread()
    answerer = Served(arguments.url, arguments.together) if arguments.url else Offline(arguments.checkpoint)
    way = "served" if arguments.url else "offline"
    right = {}
    for table in ("requests", "grounds"):
        if arguments.only not in (None, table):
            continue
        asked = list(recipes(arguments.seed, arguments.files, grounds=table == "grounds"))
        score = evaluate(asked, answerer, arguments.workers, arguments.budget_s)
        made = f"Made on {date.today()}, {way}, {arguments.files} files of each kind, seed {arguments.seed}."
        text = f"{made}\n\nTrained wordings:\n\n{score.table(False)}\n\nOther wordings:\n\n{score.table(True)}"
        print("\n".join(score.mistakes[:40]), f"\n\n{text}\n", sep="")
        if arguments.card:
            write_card(arguments.checkpoint, f"{way}, {table}", text)
        right[table] = score.totals()
    if arguments.sensitivity and isinstance(answerer, Offline):
        spoilt = sensitivity_table(answerer, arguments.seed, arguments.sensitivity)
        print(spoilt, "\n")
        if arguments.card:
            write_card(arguments.checkpoint, "sensitivity", spoilt)
    print(json.dumps({"way": way, "files": arguments.files, "seed": arguments.seed, "right": right}))


if __name__ == "__main__":
    main()
