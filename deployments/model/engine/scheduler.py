"""Who runs next: first come, first served (continuous batching), within the pages of the KV cache, the encoders' budget
and the most sequences that run together.

A request takes pages as its sequences grow. Where there are none left, the youngest makes way: what it has is moved to
the host (preemption by swapping), and it goes on, before anybody new, once there is room. The oldest always goes on, so
that nobody waits for ever. Of tensors it knows the bytes that a request's media will take, no more.
"""

from collections import deque
from dataclasses import dataclass, field

from deployments.model.forward.intake import answer_content
from deployments.model.kv_cache.cache import KVCache, Moved
from deployments.model.kv_cache.pages import PageTable
from deployments.model.kv_cache.prefix_cache import Content, Match, joined_content
from deployments.model.multimodal.request_media import Media, MediaMemory
from deployments.model.sequence import Choice, Phase, Sequence


@dataclass(slots=True, eq=False)
class ScheduledRequest:
    """A request in the scheduler's hands."""

    sequence: Sequence
    media: Media
    device_bytes: int
    """What its media will take at most on the device until the prefill is done."""
    content: Content | None = None
    """What its prompt is, token by token; None until that is known, and where nothing is kept."""
    unpacked: bool = False
    """Whether its items and positions are known."""
    matched: bool = False
    """Whether it is known what is there of its prompt."""
    moved: Moved | None = None
    """What it had when it made way, on the host."""
    moved_choices: list[Choice] = field(default_factory=list)
    resumes: Phase = Phase.ENCODE
    """Where it stands once it runs (again)."""
    known_end: int | None = None
    """Up to which token its prompt may be prefilled; None until its media have been looked at."""

    @property
    def is_stalled(self) -> bool:
        """Whether it can only go on once more of its media have come."""
        sequence = self.sequence
        if sequence.phase is not Phase.ENCODE or self.known_end is None:
            return False
        return sequence.num_prefilled >= self.known_end and self.media.is_awaited

    @property
    def first_table(self) -> PageTable:
        """Where its prompt is prefilled."""
        table = self.sequence.choices[0].table
        assert table is not None
        return table

    @property
    def tables(self) -> list[PageTable]:
        return [choice.table for choice in self.sequence.choices if choice.table is not None]


Chunks = list[tuple[ScheduledRequest, int]]
"""Requests, and up to which token their prompts are computed next."""
Owners = list[tuple[ScheduledRequest, Choice]]
"""Whose each row of a pass is."""


class Scheduler:
    """Belongs to the engine's thread."""

    def __init__(self, cache: KVCache, memory: MediaMemory, max_running: int) -> None:
        self.waiting: deque[ScheduledRequest] = deque()
        self.running: list[ScheduledRequest] = []
        """In the order of their arrival."""
        self.max_running = max_running
        """Sequences that run together at most."""
        self.num_preemptions = 0
        self._cache = cache
        self._memory = memory

    @property
    def requests(self) -> list[ScheduledRequest]:
        """All there are."""
        return [*self.waiting, *self.running]

    @property
    def num_sequences(self) -> int:
        """That run."""
        return sum(len(request.sequence.live_choices) for request in self.running)

    @property
    def decoding(self) -> Owners:
        """Every answer under way."""
        decoding = [request for request in self.running if request.sequence.phase is Phase.DECODE]
        return [
            (request, choice)
            for request in decoding
            for choice in request.sequence.choices
            if request.sequence.goes_on(choice)
        ]

    @property
    def prompts(self) -> int:
        """Requests that run and have no first token yet."""
        return sum(request.sequence.phase is not Phase.DECODE for request in self.running)

    @property
    def promised_pages(self) -> int:
        """That prompts under way have not taken yet."""
        return sum(
            self._cache.pages_for(request.sequence.num_prompt) + 1 - len(request.first_table.pages)
            for request in self.running
            if request.sequence.phase is not Phase.DECODE
        )

    @property
    def moving_prompts(self) -> int:
        """Those of them that can go on."""
        return self.prompts - sum(request.is_stalled for request in self.running)

    @property
    def is_stalled(self) -> bool:
        """Whether all that run wait for media to come."""
        return bool(self.running) and all(request.is_stalled for request in self.running)

    @property
    def pressure(self) -> float | None:
        """Requests on their way to a first token for each one that decodes; None when none does."""
        decoding = len(self.running) - self.prompts
        return self.moving_prompts / decoding if decoding else None

    @property
    def next_prompt(self) -> ScheduledRequest | None:
        """The first of those whose prompt is not in the cache yet and that can go on."""
        prompts = (request for request in self.running if request.sequence.phase is not Phase.DECODE)
        return next((request for request in prompts if not request.is_stalled), None)

    @property
    def encoding(self) -> list[ScheduledRequest]:
        """Whose media are to be encoded, in the order of their arrival."""
        return [request for request in self.running if request.sequence.phase is Phase.ENCODE]

    def give_up(self) -> list[ScheduledRequest]:
        """All requests, which are forgotten; what they hold is not let go."""
        requests = self.requests
        self.waiting.clear()
        self.running.clear()
        return requests

    def admit(self) -> None:
        """Let waiting requests run, in their order, while there is room for them."""
        while self.waiting:
            request = self.waiting[0]
            sequences = len(request.sequence.live_choices)
            if self.running and (self.num_sequences + sequences > self.max_running or not self._fits(request)):
                break
            if request.moved is None and not self._memory.has_room(request.device_bytes):
                break
            if not self._open(request):
                break
            self.waiting.popleft()
            request.sequence.phase = request.resumes
            self._take_place(request)

    def prefill_plan(self, budget: int) -> Chunks:
        """Prefilling requests and up to which prompt token each goes in this step, within `budget` tokens in all."""
        plan: Chunks = []
        for request in list(self.running):
            start, known_end = request.sequence.num_prefilled, request.known_end or 0
            if request.sequence.phase is Phase.DECODE or start >= known_end or budget <= 0:
                continue
            end = min(request.media.chunk_end(start, start + budget), known_end)
            end = self._with_room(request, start, end)
            if end > start:
                budget -= end - start
                plan.append((request, end))
        return plan

    def reserve_decoding(self) -> None:
        """Make room for the next token of every answer; whoever there is none for makes way."""
        for request in list(self.running):
            if request.sequence.phase is not Phase.DECODE:
                continue
            for choice in request.sequence.choices:
                if not request.sequence.goes_on(choice):
                    continue
                while choice.table is not None and not self._cache.reserve(
                    choice.table, request.sequence.length(choice) + 1
                ):
                    self.preempt(self._youngest())

    def preempt(self, request: ScheduledRequest) -> None:
        """Move what a running request has to the host; it waits before all others."""
        request.moved_choices = [choice for choice in request.sequence.choices if choice.table is not None]
        request.moved = self._cache.move_out(request.tables)
        for choice in request.moved_choices:
            choice.table = None
        request.resumes, request.sequence.phase = request.sequence.phase, Phase.WAITING
        self.running.remove(request)
        # Several make way the youngest first, so that the oldest comes to stand first.
        self.waiting.appendleft(request)
        self.num_preemptions += 1

    def begin_from_cache(self, request: ScheduledRequest, content: Content) -> None:
        """Take what is there of a prompt; media all of whose places that covers are not encoded."""
        request.content = content
        sequence, media = request.sequence, request.media
        match, found = self._match(request, content)
        if found and self._cache.begin(request.first_table, match, found):
            sequence.num_prefilled = sequence.num_cached = found
            media.skip(found)

    def has_all_media(self, request: ScheduledRequest, content: Content) -> bool:
        """Whether all places of a prompt's media are in the cache now."""
        _, found = self._match(request, content)
        return all(int(counts_T[found]) == int(counts_T[-1]) for counts_T in request.media.counts_T.values())

    def _match(self, request: ScheduledRequest, content: Content) -> tuple[Match, int]:
        """What is there of a prompt, and its tokens: media that must be prefilled at once are there whole or not."""
        match = self._cache.match(content, request.sequence.request.cache_salt)
        found = len(match.pages) * self._cache.page_size + match.tail_tokens
        for first, stop in request.media.blocks:
            found = first if first < found < stop else found
        return match, found

    def prefilled(self, request: ScheduledRequest) -> None:
        """The prompt is in the cache: its media are let go, its choices decode."""
        self._release_media(request)
        request.sequence.phase = Phase.DECODE
        if request.content is not None:
            self._cache.remember(request.first_table, request.content, request.sequence.request.cache_salt)

    def fork(self, request: ScheduledRequest) -> None:
        """Give every answer that goes on a table of its own, which shares the prompt's pages."""
        for choice in request.sequence.choices:
            if choice.table is None and request.moved is None and request.sequence.goes_on(choice):
                choice.table = self._cache.open()
                while not self._cache.fork(request.first_table, choice.table, request.sequence.num_prompt):
                    self.preempt(self._youngest(besides=request))

    def finish_choice(self, request: ScheduledRequest, choice: Choice) -> None:
        """Give back what an answer has that has ended; what is known of it is kept while there is room."""
        table = choice.table
        if table is not None:
            content = request.content
            if content is not None and choice.finish is not None:
                answer = answer_content(request.sequence, choice.token_ids[:-1], content.shape[1])
                salt = request.sequence.request.cache_salt
                self._cache.remember(table, joined_content(content, answer), salt)
            self._cache.close(table)
        choice.table = None
        choice.counts_V = None

    def remove(self, request: ScheduledRequest) -> None:
        """Forget a request, wherever it stands, with all that it has."""
        if request.sequence.phase is Phase.DONE:
            return
        if request.sequence.phase is Phase.WAITING:
            self.waiting.remove(request)
        else:
            self.running.remove(request)
        for choice in request.sequence.choices:
            self.finish_choice(request, choice)
        if request.sequence.phase is not Phase.WAITING or request.moved is not None:
            self._release_media(request)
        request.media.drop()
        if request.moved is not None:
            self._cache.forget(request.moved)
        request.moved = None
        request.sequence.phase = Phase.DONE

    def youngest_decoding(self) -> ScheduledRequest | None:
        """Who came last of those who decode."""
        decoding = [request for request in self.running if request.sequence.phase is Phase.DECODE]
        return decoding[-1] if decoding else None

    def _fits(self, request: ScheduledRequest) -> bool:
        """Whether there is room for a waiting request beside what has been promised."""
        choices = len(request.sequence.choices)
        need = self._cache.pages_for(request.sequence.num_prompt) + choices
        if request.moved is not None:
            need = len(request.moved.pages) + choices
        return self._cache.num_available - self.promised_pages >= need

    def _open(self, request: ScheduledRequest) -> bool:
        """Give an admitted request its tables, with what it had if it made way before; False where there's no room."""
        if request.moved is None:
            request.sequence.choices[0].table = self._cache.open()
            self._memory.reserved_bytes += request.device_bytes
            return True
        tables = [self._cache.open() for _ in request.moved_choices]
        if not self._cache.move_in(request.moved, tables):
            for table in tables:
                self._cache.close(table)
            return False
        for choice, table in zip(request.moved_choices, tables, strict=True):
            choice.table = table
        request.moved = None
        self.fork(request)  # the first to make way may have had no time for it
        for choice in request.moved_choices:
            if choice.finish is not None:
                self.finish_choice(request, choice)
        return True

    def _take_place(self, request: ScheduledRequest) -> None:
        number = request.sequence.number
        place = next((i for i, other in enumerate(self.running) if other.sequence.number > number), len(self.running))
        self.running.insert(place, request)

    def _with_room(self, request: ScheduledRequest, start: int, end: int) -> int:
        """Up to which token, at most `end`, there is room for a prompt; whoever came later makes way."""
        table = request.first_table
        while not self._cache.reserve(table, end):
            youngest = self._youngest()
            if youngest.sequence.number > request.sequence.number:
                self.preempt(youngest)
                continue
            shorter = request.media.chunk_end(start, max(start, table.capacity))
            return shorter if shorter <= table.capacity else start
        return end

    def _youngest(self, besides: ScheduledRequest | None = None) -> ScheduledRequest:
        """Of those who have pages."""
        return next(
            request
            for request in reversed(self.running)
            if request is not besides and any(table.pages for table in request.tables)
        )

    def _release_media(self, request: ScheduledRequest) -> None:
        request.media.drop()
        self._memory.reserved_bytes -= request.device_bytes
        request.device_bytes = 0
