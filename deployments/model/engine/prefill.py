"""From admission to the first token: media are encoded part by part, prompts prefilled chunk by chunk.

Says which chunks a step computes; the engine computes them in one pass with everybody's next tokens. What goes wrong
here is one request's own and ends that request alone.
"""

import time
from collections.abc import Callable
from functools import partial

from deployments.errors import SluiceError
from deployments.model.engine.failures import is_fatal, request_error
from deployments.model.engine.scheduler import Chunks, ScheduledRequest, Scheduler
from deployments.model.engine.step_budget import Allowance, StepBudget
from deployments.model.families.family import Family
from deployments.model.forward.intake import prompt_content, unpack
from deployments.model.forward.tower_runner import TowerRunner
from deployments.model.multimodal.items import Item, pixels_wanted
from deployments.model.multimodal.request_media import EncodedRows
from deployments.model.sequence import Phase


class Prefill:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        family: Family,
        encoder: TowerRunner,
        scheduler: Scheduler,
        budget: StepBudget,
        failed: Callable[[ScheduledRequest, SluiceError], object],
        *,
        keeps_prefixes: bool,
    ) -> None:
        self._family = family
        self._encoder = encoder
        self._scheduler = scheduler
        self._budget = budget
        self._failed = failed
        self._keeps_prefixes = keeps_prefixes

    def advance(self) -> tuple[Allowance | None, int, Chunks]:
        """Do a step's share of encoding, or say its share of prefilling; both when nobody decodes.

        Returns what the step was allowed of the one or the other, how much of that it takes, and the chunks.
        """
        first = self._scheduler.next_prompt
        if first is None:
            return None, 0, []
        pressure = self._scheduler.pressure
        if first.sequence.phase is Phase.ENCODE or pressure is None:
            allowance, amount = self._encode(pressure)
            if amount and pressure is not None:
                return allowance, amount, []
        first = self._scheduler.next_prompt
        if first is None:
            return None, 0, []
        allowance = self._budget.chunk(first.sequence.num_prefilled, pressure)
        chunks = self._scheduler.prefill_plan(allowance.size)
        amount = sum(end - request.sequence.num_prefilled for request, end in chunks)
        return allowance, amount, chunks

    def _encode(self, pressure: float | None) -> tuple[Allowance, int]:
        """The next items of all who have some, within the allowance; whoever has none left can be prefilled.

        Items whose outputs are kept cost nothing. Nobody who decodes waits until that is known of an item.
        """
        allowance = self._budget.part(pressure)
        wait = pressure is None
        cost = partial(self._encoder.cost, wait=wait)
        parts: list[tuple[ScheduledRequest, list[Item]]] = []
        amount = 0
        for request in self._scheduler.encoding:
            if not self._begun(request, wait=wait):
                continue
            items, values = request.media.take(allowance.size - amount, cost, at_least_one=not amount)
            amount += values
            parts.append((request, items))
            if request.media.items and not request.media.is_awaited:
                break
        self._run([(request, items) for request, items in parts if items])
        for request, _ in parts:
            if request.sequence.phase is Phase.ENCODE and not request.media.items:
                self._attempt(request, partial(self._finish, request))
            else:
                self._attempt(request, partial(self._begin_prefill, request))
                ahead = request.media.ahead(allowance.size, partial(self._encoder.cost, wait=False))
                self._encoder.upload(ahead)
        return allowance, amount

    def _begun(self, request: ScheduledRequest, *, wait: bool) -> bool:
        """Whether a request's items are known, and what is there of its prompt."""
        if not request.sequence.stamps.encoding:
            self._attempt(request, partial(self._start, request))
        if request.sequence.phase is not Phase.ENCODE:
            return False
        if self._keeps_prefixes and request.sequence.request.reuse and not request.matched:
            if not wait and not all(item.key is None or item.key.done() for item in request.media.items):
                return False
            self._attempt(request, partial(self._match, request))
        return request.sequence.phase is Phase.ENCODE

    def check_absent(self, request: ScheduledRequest) -> None:
        """End a request at once whose clips were not sent and are not known: it will come again, and wait once."""
        self._attempt(request, partial(self._check_absent, request))

    def _check_absent(self, request: ScheduledRequest) -> None:
        self._unpack(request)
        if all(self._encoder.cost(item, wait=True) == 0 for item in request.media.items):
            return
        if not self._keeps_prefixes:
            raise pixels_wanted()
        content = prompt_content(self._family, request.sequence, request.media)
        if not self._scheduler.has_all_media(request, content):
            raise pixels_wanted()

    def _start(self, request: ScheduledRequest) -> None:
        request.sequence.stamps.encoding = time.monotonic()
        if not request.unpacked:
            self._unpack(request)

    def _unpack(self, request: ScheduledRequest) -> None:
        request.unpacked = True
        unpack(self._family, request.sequence, request.media)
        if not request.sequence.request.reuse:
            return
        if all(item.is_here or item.name for item in request.media.items):
            self._encoder.expect(request.media.items)
        else:
            request.matched = True  # what has no name is known by its bytes alone, which are to come

    def _match(self, request: ScheduledRequest) -> None:
        request.matched = True
        self._scheduler.begin_from_cache(request, prompt_content(self._family, request.sequence, request.media))

    def _run(self, parts: list[tuple[ScheduledRequest, list[Item]]]) -> None:
        """Encode everybody's items in one go; one by one when that fails, so that the guilty one fails alone."""
        together = [item for _, items in parts for item in items]
        try:
            encoded = self._encoder.encode(together) if together else []
        except Exception as error:
            if is_fatal(error):
                raise
            for request, items in parts:
                self._attempt(request, partial(self._encode_alone, request, items))
        else:
            for request, items in parts:
                mine, encoded = encoded[: len(items)], encoded[len(items) :]
                self._keep(request, items, mine)

    def _encode_alone(self, request: ScheduledRequest, items: list[Item]) -> None:
        self._keep(request, items, self._encoder.encode(items))

    @staticmethod
    def _keep(request: ScheduledRequest, items: list[Item], encoded: list[EncodedRows]) -> None:
        for item, rows in zip(items, encoded, strict=True):
            request.media.parts.setdefault(item.kind, []).append(rows)
            if item.encoded:
                request.sequence.encoded.update(item.labels)
        request.media.count()

    @staticmethod
    def _begin_prefill(request: ScheduledRequest) -> None:
        """Of a prompt some of whose media are still to come: up to these."""
        if request.media.is_awaited:
            request.media.join()
            request.known_end = request.media.known_end() or 0
            request.media.count()

    @staticmethod
    def _finish(request: ScheduledRequest) -> None:
        if not request.media.hand_over():
            request.content = None  # whose its places are is not known after all
        request.media.count()
        request.known_end = request.sequence.num_prompt
        stamps = request.sequence.stamps
        stamps.encoded = time.monotonic() if request.media.encoded else stamps.encoding
        request.sequence.phase = Phase.PREFILL

    def _attempt(self, request: ScheduledRequest, work: Callable[[], object]) -> None:
        """Do one request's own work; what goes wrong there ends that request."""
        try:
            work()
        except Exception as error:
            if is_fatal(error):
                raise
            self._failed(request, request_error(error))
