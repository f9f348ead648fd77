"""Media to encoder outputs: items of several requests together where shapes allow, seen ones from a bounded store.

An item is one picture, clip or sound. Families that do not tell their items apart have one item a request and modality.

Shape legend: N placeholder tokens of one item, D hidden size.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from deployments.metrics import MetricSink
from deployments.model.family import Family
from deployments.model.multimodal import EncodedRows, joined_rows
from deployments.types import MediaKind


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to encode, with the feature function's arguments for it alone."""

    kind: MediaKind
    tensors: Mapping[str, torch.Tensor]

    @property
    def form(self) -> object:
        """Items of equal form can be joined along their first axis."""
        return self.kind, tuple(sorted((n, t.shape[1:], t.dtype) for n, t in self.tensors.items()))

    def digest(self) -> bytes:
        """Over kind, names, shapes, types and content."""
        digest = hashlib.sha256(str(self.kind).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().data)
        return digest.digest()


def split_items(kind: MediaKind, tensors: Mapping[str, torch.Tensor]) -> list[Item]:
    """A request's items of one modality: by grids, or by equal first axes; one item where neither tells."""
    grid = tensors.get(f"{kind}_grid_thw")
    firsts = {tensor.shape[0] for tensor in tensors.values()}
    if grid is not None:
        sizes = [int(size) for size in grid.prod(1)]
        parts = {name: torch.split(t, 1 if t.shape[0] == len(sizes) else sizes) for name, t in tensors.items()}
        count = len(sizes)
    elif len(firsts) == 1:
        count = firsts.pop()
        parts = {name: torch.split(tensor, 1) for name, tensor in tensors.items()}
    else:
        return [Item(kind, tensors)]
    return [Item(kind, {name: pieces[i] for name, pieces in parts.items()}) for i in range(count)]


class Encoder:
    """Runs the model's towers. Belongs to the engine's thread."""

    def __init__(self, family: Family, store_bytes: int, sink: MetricSink) -> None:
        self._family = family
        self._store = EncodedStore(store_bytes)
        self._sink = sink

    @torch.inference_mode()
    def encode(self, items: Sequence[Item]) -> list[EncodedRows]:
        """One result for each item, in their order. Raises whatever the model raises on impossible items."""
        if not self._store.capacity_bytes:
            return self._run(items)
        keys = [item.digest() for item in items]
        results = [self._store.get(key) for key in keys]
        self._sink.count("sluice_encoder_reuse_hits", sum(result is not None for result in results))
        missing = {key: item for key, item, found in zip(keys, items, results, strict=True) if found is None}
        fresh = dict(zip(missing, self._run(list(missing.values())), strict=True))
        for key, rows in fresh.items():
            self._store.put(key, rows)
        return [found if found is not None else fresh[key] for key, found in zip(keys, results, strict=True)]

    def _run(self, items: Sequence[Item]) -> list[EncodedRows]:
        groups: dict[object, list[int]] = {}
        for number, item in enumerate(items):
            groups.setdefault(item.form, []).append(number)
        results: dict[int, EncodedRows] = {}
        for numbers in groups.values():
            results.update(zip(numbers, self._together([items[number] for number in numbers]), strict=True))
        return [results[number] for number in range(len(items))]

    def _together(self, items: list[Item]) -> list[EncodedRows]:
        if len(items) > 1 and items[0].kind is not MediaKind.AUDIO:  # sounds come back without borders
            names = items[0].tensors
            joined = {name: torch.cat([item.tensors[name] for item in items]) for name in names}
            results = self._family.encode(items[0].kind, joined)
            if len(results) == len(items):
                return results
        return [joined_rows(self._family.encode(item.kind, item.tensors)) for item in items]


class EncodedStore:
    """Encoder outputs by the digest of what they were made of; the least recently used leave first."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._entries: OrderedDict[bytes, EncodedRows] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> EncodedRows | None:
        rows = self._entries.get(key)
        if rows is not None:
            self._entries.move_to_end(key)
        return rows

    def put(self, key: bytes, rows: EncodedRows) -> None:
        """Keep a copy, unless it is larger than the whole store."""
        if rows.nbytes > self.capacity_bytes:
            return
        self._entries[key] = rows.clone()
        self._bytes += rows.nbytes
        while self._bytes > self.capacity_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.nbytes
