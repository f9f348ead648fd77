"""A request's multimodal tensors from arrival to the end of its prefill, and how many bytes of them are alive.

processor tensors (host) -> items, encoded one part after the other -> encoder outputs (device) -> gone with the prefill
chunk that used them. A sequence that decodes holds nothing of this. `MediaMemory` counts what is alive; the scheduler
asks it before it lets a request's media be encoded.

Shape legend: N placeholder tokens of one modality in a prompt, D hidden size.
"""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from deployments.errors import BadRequest, TooLarge
from deployments.model.multimodal.arrivals import Arrivals
from deployments.model.multimodal.items import Item
from deployments.types import MediaKind

Place = Literal["host", "device"]
Cost = Callable[[Item], int | None]
"""What an item's encoding takes, in its values; None where that is not known yet."""


class MediaMemory:
    """Bytes of processor tensors and encoder outputs: alive by place, promised to admitted requests, kept for later.

    Written by the engine's thread only.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.reserved_bytes = 0
        """Promised on the device to requests whose prefill is not done; never more than the budget."""
        self.alive: dict[Place, int] = {"host": 0, "device": 0}
        """Of requests, until the end of their prefill."""
        self.cached_bytes = 0
        """Encoder outputs kept on the device for media that are seen again: no request's."""

    def check(self, num_bytes: int) -> None:
        """Raise `TooLarge` for what will never have room."""
        if num_bytes > self.budget_bytes:
            raise TooLarge(
                f"the request's media take {num_bytes >> 20} MiB on the model's device, "
                f"{self.budget_bytes >> 20} MiB are allowed"
            )

    def has_room(self, num_bytes: int) -> bool:
        """Whether so much more may be promised."""
        return self.reserved_bytes + num_bytes <= self.budget_bytes


@dataclass(slots=True)
class EncodedRows:
    """Encoder outputs of one modality of one prompt, one row a placeholder token, in the prompt's order."""

    rows_ND: torch.Tensor
    deepstack_ND: tuple[torch.Tensor, ...] = ()
    """Further rows that some families add inside their first layers."""
    as_list: bool = True
    """Whether the family's forward wants a list of tensors or one tensor as `pooler_output`."""
    output_type: type[Any] = dict
    """The family's own class of encoder outputs."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that there are, [N, D] each."""
        return (self.rows_ND, *self.deepstack_ND)

    @property
    def nbytes(self) -> int:
        return sum(rows.nbytes for rows in self.tensors)

    def clone(self) -> "EncodedRows":
        """A copy with storage of its own: rows of one item are often views of a whole batch's."""
        deepstack = tuple(rows.clone() for rows in self.deepstack_ND)
        return EncodedRows(self.rows_ND.clone(), deepstack, self.as_list, self.output_type)

    def cpu(self) -> "EncodedRows":
        """The same on the host."""
        deepstack = tuple(rows.cpu() for rows in self.deepstack_ND)
        return EncodedRows(self.rows_ND.cpu(), deepstack, self.as_list, self.output_type)

    def piece(self, start: int, stop: int) -> "EncodedRows":
        """Views of the rows of the placeholders `start` to `stop`."""
        deepstack = tuple(rows_ND[start:stop] for rows_ND in self.deepstack_ND)
        return EncodedRows(self.rows_ND[start:stop], deepstack, self.as_list, self.output_type)

    def output(self) -> Any:
        """What the forward is given."""

        def wrapped(rows_ND: torch.Tensor) -> Any:
            return [rows_ND] if self.as_list else rows_ND[None]

        fields: dict[str, Any] = {"pooler_output": wrapped(self.rows_ND)}
        if self.deepstack_ND:
            fields["deepstack_features"] = [wrapped(rows) for rows in self.deepstack_ND]
        return self.output_type(**fields)


def joined_rows(pieces: Sequence[EncodedRows]) -> EncodedRows:
    """Several items' rows as one; the items are of one modality and family."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    rows_ND = torch.cat([piece.rows_ND for piece in pieces])
    layers = zip(*(piece.deepstack_ND for piece in pieces), strict=True)
    return EncodedRows(rows_ND, tuple(torch.cat(layer) for layer in layers), first.as_list, first.output_type)


class Media:
    """The multimodal side of one request; what it holds is counted in `MediaMemory` until it is let go."""

    def __init__(self, tensors: dict[str, NDArray[Any]], memory: MediaMemory, arrivals: Arrivals | None = None) -> None:
        """`arrivals`: whose array one of the tensors is, where that is still to be filled."""
        self.arrivals = arrivals
        self.tensors = tensors
        """Processor tensors, on the host; empty once there are items of them."""
        self.items: deque[Item] = deque()
        """What is still to be encoded, modality after modality in the prompt's order."""
        self.parts: dict[MediaKind, list[EncodedRows]] = {}
        """Outputs of the items that have been encoded, until they are joined."""
        self.encoded: dict[MediaKind, EncodedRows] = {}
        """By modality; a modality leaves when its last placeholder has been prefilled."""
        self._found: dict[MediaKind, list[int]] = {}
        """Rows of each item that has been encoded."""
        self.counts_T: dict[MediaKind, torch.Tensor] = {}
        """int64 (T + 1,), on the host: placeholders of the modality before each prompt token."""
        self.blocks: list[tuple[int, int]] = []
        """Spans of prompt tokens which a prefill chunk may not cut, in order."""
        self.blocks_T: torch.Tensor | None = None
        """int64 (T,): which of these spans each prompt token lies in, -1 for none; None where there are none."""
        self.item_rows: dict[MediaKind, list[int] | None] = {}
        """Placeholders of each item, as its shape tells; None where it does not."""
        self._skipped: dict[MediaKind, int] = {}
        """Of the modality's first placeholders: their keys were there, they are not encoded."""
        self._memory = memory
        self._counted: dict[Place, int] = {"host": 0, "device": 0}

    @property
    def is_awaited(self) -> bool:
        """Whether the next item has not come."""
        return bool(self.items) and not self.items[0].is_here

    def ahead(self, values: int, cost: Cost) -> list[Item]:
        """The next items to encode, of so many values in all."""
        found: list[Item] = []
        for item in self.items:
            needed = cost(item)
            if needed is None or needed > values:
                break
            values -= needed
            found.append(item)
        return found

    def take(self, values: int, cost: Cost, *, at_least_one: bool) -> tuple[list[Item], int]:
        """The next items to encode, of so many values in all, which are encoded now; and their values."""
        number = len(self.ahead(values, cost))
        if not number and at_least_one and self.items and cost(self.items[0]) is not None:
            number = 1
        taken = [self.items.popleft() for _ in range(number)]
        return taken, sum(cost(item) or 0 for item in taken)

    def count(self) -> None:
        """Tell the memory's account what is held now."""
        waiting = sum(array.nbytes for array in self.tensors.values()) + sum(item.nbytes for item in self.items)
        encoded = [*self.encoded.values(), *(rows for parts in self.parts.values() for rows in parts)]
        held: dict[Place, int] = {"host": waiting, "device": sum(rows.nbytes for rows in encoded)}
        for place, num_bytes in held.items():
            self._memory.alive[place] += num_bytes - self._counted[place]
        self._counted = held

    def drop(self) -> None:
        """Let go of everything: the prefill is done, or will never be."""
        self.tensors.clear()
        self.arrivals = None
        for item in self.items:
            if item.key is not None:
                item.key.cancel()
        self.items.clear()
        self.parts, self.encoded, self.counts_T = {}, {}, {}
        self.blocks, self.blocks_T = [], None
        self.count()

    def skip(self, end: int) -> None:
        """The prompt's tokens up to `end` are in the KV cache already: items whose places all lie there leave."""
        for kind, counts_T in self.counts_T.items():
            covered, rows = int(counts_T[end]), self.item_rows.get(kind)
            mine = [item for item in self.items if item.kind is kind]
            if rows is None:
                rows = [0] * (len(mine) - 1) + [int(counts_T[-1])]
                covered = covered if covered == int(counts_T[-1]) else -1
            edges = itertools.accumulate(rows)
            gone = {id(item): edge for item, edge in zip(mine, edges, strict=True) if edge <= covered}
            self._skipped[kind] = max(gone.values(), default=0)
            self.items = deque(item for item in self.items if id(item) not in gone)

    def join(self) -> None:
        """Add the parts to the encoder outputs."""
        for kind, parts in self.parts.items():
            self._found.setdefault(kind, []).extend(len(rows.rows_ND) for rows in parts)
            before = [self.encoded[kind]] if kind in self.encoded else []
            self.encoded[kind] = joined_rows(before + parts)
        self.parts = {}

    def known_end(self) -> int | None:
        """Up to which prompt token there is all that the prompt needs, before all is there; None: to its end."""
        ends = []
        for kind, counts_T in self.counts_T.items():
            rows = self._skipped.get(kind, 0) + sum(self._found.get(kind, []))
            if rows < int(counts_T[-1]):
                ends.append(int(torch.searchsorted(counts_T, rows, right=True)) - 1)
        if not ends:
            return None
        end = min(ends)
        return next((first for first, stop in self.blocks if first < end < stop), end)

    def hand_over(self) -> bool:
        """Make the parts the encoder outputs, now that there are no more; False where an item has not as many as its
        shape told.

        Raises `BadRequest` when they do not fit the prompt.
        """
        self.join()
        as_told = True
        for kind, counts_T in self.counts_T.items():
            found, skipped = self._found.get(kind, []), self._skipped.get(kind, 0)
            expected = int(counts_T[-1])
            if sum(found) + skipped != expected:
                raise BadRequest(
                    f"the prompt has room for {expected} {kind} tokens, its {kind} inputs make {sum(found) + skipped}"
                )
            told = self.item_rows.get(kind)
            as_told &= told is None or found == told[len(told) - len(found) :]
        return as_told

    def rows(self, kind: MediaKind, low: int, high: int) -> EncodedRows:
        """Of the modality's placeholders `low` to `high`."""
        skipped = self._skipped.get(kind, 0)
        return self.encoded[kind].piece(low - skipped, high - skipped)

    def prefilled(self, end: int) -> None:
        """The prompt's tokens up to `end` are in the KV cache: let go of encoder outputs whose last row went in."""
        for kind in list(self.encoded):
            if int(self.counts_T[kind][end]) == int(self.counts_T[kind][-1]):
                del self.encoded[kind]

    def chunk_end(self, start: int, end: int) -> int:
        """Where a chunk from `start` that should end at `end` does end: not inside a block, later when it must."""
        for first, stop in self.blocks:
            if first < end < stop:
                return first if first > start else stop
        return end
