"""How much work on prompts goes beside everybody's next tokens: as much as a step's time budget has room for.

A step with prompts may last `target_itl_s`, whatever a step without them takes: what a pass costs however small it is
(launches, reading the weights) is paid anyway, so that small portions only make prompts slow. Where that cost alone is
most of the target, prompts have a right of their own: they go on at no less than half the rate that they would have
alone, which means a step of twice its fixed cost. What work costs depends on machine, model, batch and context, so that
it is measured, not configured: seconds of whole steps are fitted as a fixed cost and a cost per unit, for each length
of context, since attention costs more the longer it is. Where more requests wait for their first token than for their
next one, a step takes that many times as long: else a replica with much to read would spend half its time on steps of
few rows. With nobody decoding a portion is as large as it may be.
"""

from dataclasses import dataclass

_FIRST_CHUNK = 256
SMALLEST_CHUNK = 8
_FIRST_PART = 1 << 16
_LARGEST_PART = 1 << 26
"""Values of encoder inputs: two hundred frames of 360p. Bounds how long an abort waits for its step."""
_GROWTH = 2.0
"""Of a portion from one step to the next, at most."""
_MEMORY = 0.8
"""What an average keeps at each new value."""
_CONTEXT_STEP = 256
_FAIR = 2.0
"""A step of so many times its fixed cost gives prompts half their lone rate."""


class StepCost:
    """Seconds of a step as a fixed part and a part for each unit of work, by least squares over the latest steps."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, amount: float, seconds: float) -> None:
        sums = (self._weight, self._x, self._y, self._xx, self._xy)
        new = (1.0, amount, seconds, amount * amount, amount * seconds)
        self._weight, self._x, self._y, self._xx, self._xy = (
            _MEMORY * old + value for old, value in zip(sums, new, strict=True)
        )

    @property
    def known(self) -> bool:
        return self._weight > 0

    def line(self, least_fixed_s: float) -> tuple[float, float]:
        """(fixed seconds, seconds for each unit). Steps of much the same size tell no fixed part: then the least."""
        x, y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - x * x
        fixed = least_fixed_s
        if spread > 0.01 * x * x:
            slope = (self._xy / self._weight - x * y) / spread
            fixed = max(fixed, y - slope * x)
        fixed = min(fixed, y)
        return fixed, max((y - fixed) / x, 1e-12)


@dataclass(slots=True)
class Portion:
    """One kind of work's share of a step, in its own unit."""

    size: float
    smallest: int
    largest: int
    cost: StepCost


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a step may do of one kind of work."""

    portion: Portion
    times: float
    """So many portions: more requests wait for their first token than for their next one."""

    @property
    def size(self) -> int:
        return min(int(self.portion.size * self.times), self.portion.largest)


class StepBudget:
    """Belongs to the engine's thread. Durations in seconds."""

    def __init__(self, chunk_tokens: int, target_itl_s: float) -> None:
        self._chunk_tokens = chunk_tokens
        self._target_s = target_itl_s
        self._alone_s = 0.0
        """Of a step that only decodes; 0 until one was seen."""
        self._chunks: dict[int, Portion] = {}
        self._part = Portion(_FIRST_PART, 1, _LARGEST_PART, StepCost())
        self._whole_chunk = Allowance(Portion(chunk_tokens, chunk_tokens, chunk_tokens, StepCost()), 1)
        self._whole_part = Allowance(Portion(_LARGEST_PART, _LARGEST_PART, _LARGEST_PART, StepCost()), 1)

    def chunk(self, context: int, pressure: float | None) -> Allowance:
        """Prompt tokens of the coming step, the first of which has so many tokens before it.

        `pressure`, here and below: requests that wait for their first token for each one that decodes; None when none
        does.
        """
        if pressure is None:
            return self._whole_chunk
        length = (context // _CONTEXT_STEP).bit_length()
        if length not in self._chunks:
            shorter = [known for known in self._chunks if known < length]
            first = self._chunks[max(shorter)].size if shorter else _FIRST_CHUNK
            smallest = min(SMALLEST_CHUNK, self._chunk_tokens)
            self._chunks[length] = Portion(min(first, self._chunk_tokens), smallest, self._chunk_tokens, StepCost())
        return Allowance(self._chunks[length], max(1.0, pressure))

    def part(self, pressure: float | None) -> Allowance:
        """Values of encoder inputs of the coming step."""
        return self._whole_part if pressure is None else Allowance(self._part, max(1.0, pressure))

    def update(self, seconds: float, allowance: Allowance | None, amount: int) -> None:
        """A step in which answers decoded took so long, with so much work on prompts."""
        if allowance is None or not amount:
            self._alone_s = _MEMORY * self._alone_s + (1 - _MEMORY) * seconds if self._alone_s else seconds
            return
        portion = allowance.portion
        portion.cost.add(amount, seconds)
        fixed_s, unit_s = portion.cost.line(self._alone_s)
        room_s = max(self._target_s, _FAIR * fixed_s) - fixed_s
        wanted = min(room_s / unit_s, _GROWTH * max(portion.size, amount / allowance.times))
        portion.size = min(float(portion.largest), max(float(portion.smallest), wanted))
