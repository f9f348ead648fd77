"""The tokens that a pass has chosen, from its launch until the host has them.

A card computes while the host goes on: it schedules the next step, whose rows begin with tokens that lie on the device,
and only then waits for these. An answer that ends with one of them has a row too much in the next step, which is
dropped: its key lies behind what is kept of its sequence. Rows that a grammar, a penalty or the like binds have to be
known before the next ones: their step is collected at once.
"""

from deployments.model.engine.scheduler import Owners
from deployments.model.sampling.under_way import Choosing
from deployments.model.sequence import Choice


class Flight:
    """A step's rows and what becomes of them."""

    def __init__(self, owners: Owners, choosing: Choosing) -> None:
        self.owners = owners
        self.choosing = choosing
        self._places: dict[Choice, int] = {}
        self._dropped: set[Choice] = set()
        if self.runs_ahead:
            self._places = {choice: place for place, (_, choice) in enumerate(owners)}
        for _, choice in owners:
            choice.num_pending += 1

    @property
    def runs_ahead(self) -> bool:
        """Whether the next step may begin before these are known to the host."""
        return self.choosing.tokens_R is not None

    def source(self, choice: Choice) -> int:
        """Where among the tokens chosen last a choice's is."""
        return self._places[choice]

    def drop(self, choice: Choice) -> None:
        """Its row began with a token that was not the one: it is computed again."""
        if choice not in self._dropped and any(mine is choice for _, mine in self.owners):
            self._dropped.add(choice)
            choice.num_pending -= 1

    def land(self, choice: Choice) -> bool:
        """A choice's token is known; False where nobody wants it."""
        if choice in self._dropped:
            return False
        choice.num_pending -= 1
        return choice.finish is None
