"""After a forward pass: a token for each answer that is under way, told to its listener; what has ended lets go."""

import time
from collections.abc import Callable

import torch

from deployments.errors import InternalError, SluiceError
from deployments.model.engine.scheduler import Job, Scheduler
from deployments.model.sampling.sampler import Sampled, Sampler
from deployments.model.sequence import Choice, Sequence

Owners = list[tuple[Job, Choice]]
"""Whose each row of logits is."""


class NextTokens:
    """Belongs to the engine's thread."""

    def __init__(self, sampler: Sampler, scheduler: Scheduler, failed: Callable[[Job, SluiceError], object]) -> None:
        self._sampler = sampler
        self._scheduler = scheduler
        self._failed = failed

    def choose(self, owners: Owners, logits_RV: torch.Tensor) -> None:
        """A token for each choice from its row of logits."""
        sampled = self._sampler.sample(logits_RV, [(job.sequence, choice) for job, choice in owners])
        now = time.monotonic()
        for job, choice in owners:
            if not choice.token_ids:
                job.sequence.stamps.first_token = now
        self._accept(owners, sampled)

    def _accept(self, owners: Owners, sampled: list[Sampled]) -> None:
        """Note everyone's new token and tell the listeners; then end what has ended.

        Slots move when one is freed: by then each choice must know all tokens that its slot holds.
        """
        broken: dict[Job, SluiceError] = {}
        for (job, choice), outcome in zip(owners, sampled, strict=True):
            try:
                _note(job.sequence, choice, outcome)
            except SluiceError as error:
                broken.setdefault(job, error)
        for job, reason in broken.items():
            self._failed(job, reason)
        for job, choice in owners:
            if choice.finish is not None and choice.slot >= 0:
                self._scheduler.finish_choice(job, choice)
                if not job.sequence.live_choices:
                    self._scheduler.remove(job)
                    job.sequence.listener.on_end(job.sequence.stamps.timing(time.monotonic()))


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
