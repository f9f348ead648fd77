"""How well the demo model answers: `python -m deployments.demo.evaluate [--url http://127.0.0.1:8000]`.

Without `--url` through transformers alone, with it through a running server. Prints Markdown tables, a JSON line last.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import torch
from tqdm import tqdm

from deployments.demo import CHECKPOINT_DIR
from deployments.demo.evaluation.cases import FRAME_COUNTS, GROUPS, make_cases
from deployments.demo.evaluation.offline import Offline
from deployments.demo.evaluation.sensitivity import sensitivity_table
from deployments.demo.evaluation.served import Served
from deployments.demo.evaluation.tables import Score

CARD = "README.md"
BEGIN, END = "<!-- written by deployments.demo.evaluate: {} -->", "<!-- end: {} -->"


def evaluate(answerer: Offline | Served, seed: int, files: int) -> Score:
    """Ask about `files` fresh files, or pairs of files, of each kind of request."""
    score = Score()
    bar = tqdm(make_cases(seed, files), total=files * (len(GROUPS) + len(FRAME_COUNTS) - 1), unit="case", mininterval=2)
    for case in bar:
        score.add(case, answerer.answers(case))
    return score


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
    parser.add_argument("--files", type=int, default=200, help="of each kind of request")
    parser.add_argument("--seed", type=int, default=31, help="of the files; any but the training's gives fresh ones")
    parser.add_argument("--sensitivity", type=int, default=50, help="files of each trial that spoils them; 0 for none")
    parser.add_argument("--together", type=int, default=8, help="requests at once, with --url")
    parser.add_argument("--card", action="store_true", help="write the tables into the model card")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    answerer = Served(arguments.url, arguments.together) if arguments.url else Offline(arguments.checkpoint)
    score = evaluate(answerer, arguments.seed, arguments.files)
    way = "served" if arguments.url else "offline"
    made = f"Made on {date.today()}, {way}, {arguments.files} files of each kind, seed {arguments.seed}."
    text = f"{made}\n\nTrained wordings:\n\n{score.table(False)}\n\nOther wordings:\n\n{score.table(True)}"
    print("\n".join(score.mistakes[:40]), f"\n\n{text}\n", sep="")
    if arguments.card:
        write_card(arguments.checkpoint, way, text)
    if arguments.sensitivity and isinstance(answerer, Offline):
        spoilt = sensitivity_table(answerer, arguments.seed, arguments.sensitivity)
        print(spoilt, "\n")
        if arguments.card:
            write_card(arguments.checkpoint, "sensitivity", spoilt)
    print(json.dumps({"way": way, "files": arguments.files, "seed": arguments.seed, "right": score.totals()}))


if __name__ == "__main__":
    main()
