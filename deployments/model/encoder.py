"""Media to encoder outputs: items of several requests together where shapes allow, seen ones from a bounded store.

Shape legend: N placeholder tokens of one item, D hidden size.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch

from deployments.metrics import MetricSink
from deployments.model.family import Family
from deployments.model.items import Item
from deployments.model.multimodal import EncodedRows, joined_rows
from deployments.model.pixels import normalised
from deployments.model.uploads import Uploads
from deployments.types import MediaKind


class Encoder:
    """Runs the model's towers. Belongs to the engine's thread."""

    def __init__(self, family: Family, uploads: Uploads, store_bytes: int, sink: MetricSink) -> None:
        self._family = family
        self._uploads = uploads
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

    def upload(self, items: Iterable[Item]) -> None:
        """Begin to bring items to the device which will be encoded soon."""
        for item in items:
            if not item.uploads:
                item.uploads = {name: self._uploads.begin(tensor) for name, tensor in item.tensors.items()}

    def _together(self, items: list[Item]) -> list[EncodedRows]:
        """Results of items of one form."""
        if len(items) > 1 and items[0].kind is not MediaKind.AUDIO:  # sounds come back without borders between them
            results = self._features(items)
            if len(results) == len(items):
                return results
        return [joined_rows(self._features([item])) for item in items]

    def _features(self, items: list[Item]) -> list[EncodedRows]:
        self.upload(items)
        first, dtype = items[0], self._family.model.dtype
        joined = {name: _joined([item.uploads[name].tensor() for item in items]) for name in first.tensors}
        if first.pixels is not None:
            joined[first.pixels] = normalised(joined[first.pixels], first.norm, dtype)
        given = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in joined.items()}
        return self._family.encode(first.kind, given)


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


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
