"""After a forward pass: a token for each answer that is under way, told to its listener; what has ended lets go.

What goes wrong with one row is its request's own: its logits, its grammar, its listener.
"""

import time
from collections.abc import Callable

import torch

from deployments.errors import InternalError, SluiceError
from deployments.model.engine.failures import is_fatal, request_error
from deployments.model.engine.flight import Flight
from deployments.model.engine.scheduler import Owners, ScheduledRequest, Scheduler
from deployments.model.sampling.sampler import Sampler
from deployments.model.sampling.under_way import Choosing, Chosen, Outcomes, Sampled
from deployments.model.sequence import Choice, Phase, Sequence


class TokenStep:
    """Belongs to the engine's thread."""

    def __init__(
        self, sampler: Sampler, scheduler: Scheduler, failed: Callable[[ScheduledRequest, SluiceError], object]
    ) -> None:
        self._sampler = sampler
        self._scheduler = scheduler
        self._failed = failed

    def begin(self, owners: Owners, logits_RV: torch.Tensor) -> Flight:
        """Choose a token for each choice from its row of logits. Answers that begin part from each other."""
        flight = Flight(owners, self._choosing(owners, logits_RV))
        for request, _ in owners:
            if request.sequence.phase is not Phase.DONE:
                self._scheduler.fork(request)
        return flight

    def collect(self, flight: Flight) -> list[Choice]:
        """Tell everybody their tokens. Returns choices whose token is another than the device went on with."""
        outcomes = self._outcomes(flight)
        now = time.monotonic()
        for (request, choice), outcome in zip(flight.owners, outcomes, strict=True):
            if not flight.land(choice) or request.sequence.phase is Phase.DONE:
                continue  # it has ended, or another of its choices has failed
            if not choice.token_ids:
                request.sequence.stamps.first_token = now
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                _note(request.sequence, choice, outcome)
            except Exception as error:
                self._failed(request, request_error(error))
        self._let_go(flight.owners)
        return [flight.owners[row][1] for row in flight.choosing.corrected]

    @staticmethod
    def _outcomes(flight: Flight) -> Outcomes:
        try:
            return flight.choosing.collect()
        except Exception as error:
            if is_fatal(error):
                raise
            return [error] * len(flight.owners)

    def _choosing(self, owners: Owners, logits_RV: torch.Tensor) -> Choosing:
        """Of all rows at once; one by one where that fails, so that the guilty one fails alone."""
        rows = [(request.sequence, choice) for request, choice in owners]
        try:
            return self._sampler.begin(logits_RV, rows)
        except Exception:
            outcomes: Outcomes = []
            for number, row in enumerate(rows):
                row[1].counts_V = None  # may have been counted already: it is counted anew
                try:
                    outcomes += self._sampler.sample(logits_RV[number : number + 1], [row])
                except Exception as error:
                    outcomes.append(error)
            return Chosen(outcomes)

    def _let_go(self, owners: Owners) -> None:
        """Answers that have ended give back what they have."""
        for request, choice in owners:
            if request.sequence.phase is Phase.DONE or choice.finish is None:
                continue
            self._scheduler.finish_choice(request, choice)
            if not request.sequence.live_choices:
                self._scheduler.remove(request)
                timing = request.sequence.timing(time.monotonic())
                try:
                    request.sequence.listener.on_end(timing)
                except Exception as error:
                    self._failed(request, request_error(error))


def _note(sequence: Sequence, choice: Choice, outcome: Sampled) -> None:
    token = outcome.token
    if token is None:
        raise InternalError("the model's output is not a number for this request")
    if choice.constraint is not None:
        choice.constraint.accept(token.token_id)
    choice.token_ids.append(token.token_id)
    if token.token_id in sequence.request.stop_ids:
        choice.finish = "stop"
    elif len(choice.token_ids) >= sequence.max_new_tokens:
        choice.finish = "length"
    sequence.listener.on_token(choice.index, token, choice.finish)
