"""How much work on prompts goes between two decode steps: so much that those who decode are held up a little, no more.

What a portion costs depends on machine, model, batch and context, so that it is measured, not configured: whole steps,
with and without such work, by the clock. Portions grow while a step stays within `slowdown` steps of decoding alone and
shrink as soon as one does not. Prefill has a portion for each length of context, since attention costs more the longer
it is. With nobody decoding, or without a `slowdown`, a portion is as large as it may be.
"""

from dataclasses import dataclass

SMALLEST_CHUNK = 8
_FIRST_CHUNK = 32
_FIRST_PART = 1 << 16
_LARGEST_PART = 1 << 26
"""Values of encoder inputs: two hundred frames of 360p. Bounds how long an abort waits for its step."""
_GROWTH, _SHRINKAGE = 1.1, 0.6
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

    def took(self, amount: int, seconds: float, allowed_s: float) -> None:
        """A step with so much of the work took so long; a remainder can be too much but never too little."""
        if seconds > allowed_s:
            wanted = min(self.exact, amount) * max(_SHRINKAGE, allowed_s / seconds)
        elif amount >= self.size:
            wanted = self.exact * min(_GROWTH, allowed_s / seconds)
        else:
            return
        self.exact = min(float(self._largest), max(float(self._smallest), wanted))


@dataclass(frozen=True, slots=True)
class Work:
    """What a step did for prompts."""

    portion: Portion
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
        self._all_tokens = Portion(chunk_tokens, chunk_tokens, chunk_tokens)
        self._all_values = Portion(_LARGEST_PART, _LARGEST_PART, _LARGEST_PART)

    def rests(self, *, decoding: bool) -> bool:
        """Whether the coming step should only decode, so that its time can be measured."""
        if not decoding or self._slowdown is None:
            return False
        return self._alone_s is None or self._since_rest >= _REST_EVERY

    def chunk(self, context: int, *, decoding: bool) -> Portion:
        """Prompt tokens of the coming step, the first of which has so many tokens before it."""
        if not decoding or self._slowdown is None:
            return self._all_tokens
        length = (context // _CONTEXT_STEP).bit_length()
        if length not in self._chunks:
            shorter = [known for known in self._chunks if known < length]
            first = self._chunks[max(shorter)].exact if shorter else _FIRST_CHUNK
            self._chunks[length] = Portion(first, SMALLEST_CHUNK, self._chunk_tokens)
        return self._chunks[length]

    def part(self, *, decoding: bool) -> Portion:
        """Values of encoder inputs of the coming step."""
        return self._part if decoding and self._slowdown is not None else self._all_values

    def stepped(self, seconds: float, work: Work | None) -> None:
        """A step that decoded took so long in all, with some work on prompts or without."""
        if work is None:
            self._since_rest = 0
            known = self._alone_s
            self._alone_s = seconds if known is None else _MEMORY * known + (1 - _MEMORY) * min(seconds, 2 * known)
        elif self._alone_s is not None and self._slowdown is not None:
            self._since_rest += 1
            work.portion.took(work.amount, seconds, self._slowdown * self._alone_s)
