"""Passes that fail end as few requests as possible: what went wrong together is computed apart."""

import logging
from collections.abc import Callable

import torch

from deployments.errors import SluiceError
from deployments.model.engine.failures import is_fatal, is_out_of_memory, request_error
from deployments.model.engine.scheduler import Chunks, Owners, ScheduledRequest, Scheduler
from deployments.model.forward.runner import ModelRunner
from deployments.model.sequence import Choice, Phase

_AWAY = (Phase.WAITING, Phase.DONE)

logger = logging.getLogger(__name__)


class Passes:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        *,
        run: Callable[[Owners, Chunks], torch.Tensor],
        computed: Callable[[Owners, Chunks, torch.Tensor], object],
        settle: Callable[[], object],
        failed: Callable[[ScheduledRequest, SluiceError], object],
    ) -> None:
        """`run` gives logits, `computed` is told of them; `settle` waits for what earlier passes have chosen."""
        self._runner = runner
        self._scheduler = scheduler
        self._run = run
        self._computed = computed
        self._settle = settle
        self._failed = failed

    def compute(self, owners: Owners, chunks: Chunks) -> None:
        """One pass for everybody, and what follows of it. Where it fails: each prompt apart, so that the guilty one
        fails alone; the answers together, or alone as well."""
        try:
            logits = self._run(owners, chunks)
        except Exception as error:
            if is_fatal(error):
                raise
            self._settle()
            self._compute_apart(owners, chunks, error)
        else:
            self._computed(owners, chunks, logits)

    def _compute_apart(self, owners: Owners, chunks: Chunks, error: Exception) -> None:
        if is_out_of_memory(error):
            self._free_memory()
        alone = len(owners) + len(chunks) == 1
        owners = [(request, choice) for request, choice in owners if choice.table is not None]
        chunks = [(request, end) for request, end in chunks if request.sequence.phase not in _AWAY]
        if alone and not is_out_of_memory(error):
            for request, _ in [*owners, *chunks]:
                self._failed(request, request_error(error))
            return
        logger.warning("a pass failed (%s); its requests are computed apart", type(error).__name__, exc_info=error)
        if owners:
            self._decode_apart(owners)
        for chunk in chunks:
            try:
                logits = self._run([], [chunk])
            except Exception as reason:
                if is_fatal(reason):
                    raise
                self._failed(chunk[0], request_error(reason))
            else:
                self._computed([], [chunk], logits)

    def _decode_apart(self, owners: Owners) -> None:
        """Without prompts beside them; where memory runs out the youngest fails, else whoever fails alone."""
        try:
            logits = self._run(owners, [])
        except Exception as error:
            if is_fatal(error):
                raise
            youngest = self._scheduler.youngest_decoding()
            if is_out_of_memory(error) and youngest is not None:
                self._failed(youngest, request_error(error))
                return
            for request, choice in owners:
                self._decode_alone(request, choice)
        else:
            self._computed(owners, [], logits)

    def _decode_alone(self, request: ScheduledRequest, choice: Choice) -> None:
        if request.sequence.phase is Phase.DONE:
            return
        try:
            logits = self._run([(request, choice)], [])
        except Exception as error:
            if is_fatal(error):
                raise
            self._failed(request, request_error(error))
        else:
            self._computed([(request, choice)], [], logits)

    def _free_memory(self) -> None:
        """Let go of all that is only kept because it may be wanted again."""
        self._runner.encoder.forget()
        if self._runner.device.type == "cuda":
            torch.cuda.empty_cache()
