"""How much work on prompts goes between two decode steps: so much that those who decode are held up a little, no more.

What a portion costs depends on machine, model, batch and context, so that it is measured, not configured: whole steps,
with and without such work, by the clock. Portions grow while a step stays within `slowdown` steps of decoding alone and
shrink as soon as one does not. Prefill has a portion for each length of context, since attention costs more the longer
it is. Where more requests wait for their first token than for their next one, a step takes that many portions: else a
replica with much to read would spend half its time on decode steps of few rows. With nobody decoding, or without a
`slowdown`, a portion is as large as it may be.
"""

from dataclasses import dataclass

SMALLEST_CHUNK = 8
_FIRST_CHUNK = 64
_FIRST_PART = 1 << 16
_LARGEST_PART = 1 << 26
"""Values of encoder inputs: two hundred frames of 360p. Bounds how long an abort waits for its step."""
_GROWTH, _FAST_GROWTH, _SHRINKAGE = 1.1, 1.5, 0.6
"""Of a portion from one step to the next; fast while a step took less than two thirds of what it might."""
_MEMORY = 0.8
_REST_EVERY = 32
"""So many steps with work are followed by one without, to see again what decoding takes alone."""
_CONTEXT_STEP = 256


class Portion:
    """One kind of work's share of a step, in its own unit."""

    def __init__(self, first: float, smallest: int, largest: int) -> None:
        self._smallest = min(smallest, largest)
        self._largest = largest
        self.exact = min(first, float(largest))

    @property
    def size(self) -> int:
        return int(self.exact)

    def took(self, amount: float, seconds: float, allowed_s: float) -> None:
        """A step with so much of the work took so long; a remainder can be too much but never too little."""
        if seconds > allowed_s:
            wanted = min(self.exact, amount) * max(_SHRINKAGE, allowed_s / seconds)
        elif amount > self.exact - 1:
            room = allowed_s / seconds
            wanted = self.exact * (_FAST_GROWTH if room > _FAST_GROWTH else min(_GROWTH, room))
        else:
            return
        self.exact = min(float(self._largest), max(float(self._smallest), wanted))


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a step may do of one kind of work."""

    portion: Portion
    portions: float
    largest: int

    @property
    def size(self) -> int:
        return min(int(self.portion.exact * self.portions), self.largest)


@dataclass(frozen=True, slots=True)
class Work:
    """What a step did for prompts."""

    allowance: Allowance
    amount: int


class Pace:
    """Belongs to the engine's thread. Durations in seconds."""

    def __init__(self, chunk_tokens: int, slowdown: float | None) -> None:
        """`slowdown`: longest step with work on prompts, in steps that only decode; None: as long as it takes."""
        self._chunk_tokens = chunk_tokens
        self._slowdown = slowdown
        self._alone_s: float | None = None
        self._since_rest = 0
        self._chunks: dict[int, Portion] = {}
        self._part = Portion(_FIRST_PART, 1, _LARGEST_PART)
        self._whole_chunk = Allowance(Portion(chunk_tokens, chunk_tokens, chunk_tokens), 1, chunk_tokens)
        self._whole_part = Allowance(Portion(_LARGEST_PART, _LARGEST_PART, _LARGEST_PART), 1, _LARGEST_PART)

    def rests(self, pressure: float | None) -> bool:
        """Whether the coming step should only decode, so that its time can be measured.

        `pressure`, here and below: requests that wait for their first token for each one that decodes; None when none
        does.
        """
        if pressure is None or self._slowdown is None:
            return False
        return self._alone_s is None or self._since_rest >= _REST_EVERY

    def chunk(self, context: int, pressure: float | None) -> Allowance:
        """Prompt tokens of the coming step, the first of which has so many tokens before it."""
        if pressure is None or self._slowdown is None:
            return self._whole_chunk
        length = (context // _CONTEXT_STEP).bit_length()
        if length not in self._chunks:
            shorter = [known for known in self._chunks if known < length]
            first = self._chunks[max(shorter)].exact if shorter else _FIRST_CHUNK
            self._chunks[length] = Portion(first, SMALLEST_CHUNK, self._chunk_tokens)
        return Allowance(self._chunks[length], max(1.0, pressure), self._chunk_tokens)

    def part(self, pressure: float | None) -> Allowance:
        """Values of encoder inputs of the coming step."""
        if pressure is None or self._slowdown is None:
            return self._whole_part
        return Allowance(self._part, max(1.0, pressure), _LARGEST_PART)

    def stepped(self, seconds: float, work: Work | None) -> None:
        """A step that decoded took so long in all, with some work on prompts or without."""
        alone_s = self._alone_s
        if work is None:
            self._since_rest = 0
            known = seconds if alone_s is None else alone_s
            self._alone_s = _MEMORY * known + (1 - _MEMORY) * min(seconds, 2 * known)
        elif alone_s is not None and self._slowdown is not None:
            self._since_rest += 1
            portions = work.allowance.portions
            one_s = alone_s + (seconds - alone_s) / portions
            work.allowance.portion.took(work.amount / portions, one_s, self._slowdown * alone_s)
