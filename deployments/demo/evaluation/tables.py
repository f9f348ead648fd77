"""Counts of right answers, and their tables in Markdown."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from deployments.demo.dialogue.truth import Question
from deployments.demo.evaluation.cases import GROUNDS, GROUPS, Case

COLUMNS = (*map(str, Question), "anything else")


class Score:
    """Right and asked, by wording, row and column."""

    def __init__(self) -> None:
        self.counts: dict[tuple[bool, str, str], list[int]] = defaultdict(lambda: [0, 0])
        self.mistakes: list[str] = []

    def add(self, case: Case, answers: Sequence[str]) -> None:
        """Count the answers to the questions of `case`."""
        for ask, got in zip(case.asks, answers, strict=True):
            row = f"{ask.group}, {case.num_frames} frames" if ask.group == "a clip" else ask.group
            count = self.counts[ask.held_out, row, ask.question]
            count[0] += got == ask.truth
            count[1] += 1
            if got != ask.truth:
                self.mistakes.append(f"{row}: {ask.text} -> {got!r}, not {ask.truth!r}")

    def table(self, held_out: bool) -> str:
        """Percentages, a row for each kind of request, a column for each kind of question."""
        known = {row for held, row, _ in self.counts if held == held_out}
        places = (*GROUPS, *GROUNDS)
        rows = sorted(known, key=lambda row: ([row.startswith(group) for group in places].index(True), len(row), row))
        lines = [["asked about", *COLUMNS, "of each"]]
        for row in rows:
            cells = [self.counts.get((held_out, row, column)) for column in COLUMNS]
            asked = max(cell[1] for cell in cells if cell)
            lines.append([row, *(f"{100 * cell[0] / cell[1]:.1f} %" if cell else "" for cell in cells), str(asked)])
        return markdown(lines)

    def totals(self) -> dict[str, dict[str, float]]:
        """Share of right answers by wording and question, over all rows."""
        sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for (held_out, _, column), (right, asked) in self.counts.items():
            total = sums["held_out" if held_out else "trained", column]
            total[0] += right
            total[1] += asked
        return {
            wording: {column: round(r / n, 4) for (kind, column), (r, n) in sums.items() if kind == wording}
            for wording in ("trained", "held_out")
        }


def markdown(lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table of `lines`, the first of which is the head."""
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *body])
