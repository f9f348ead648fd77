"""Media to encoder outputs: items of several requests together where shapes allow, seen ones from a bounded cache.

Shape legend: N placeholder tokens of one item, D hidden size.
"""

from collections.abc import Iterable, Sequence

import torch

from deployments.model.families.family import Family
from deployments.model.multimodal.digests import Digests
from deployments.model.multimodal.encoded import tensor_of
from deployments.model.multimodal.encoder_cache import EncoderCache
from deployments.model.multimodal.items import Item, pixels_wanted
from deployments.model.multimodal.pixels import normalised
from deployments.model.multimodal.request_media import EncodedRows, joined_rows
from deployments.model.multimodal.uploads import Uploads
from deployments.types import MediaKind


class TowerRunner:
    """Runs the model's towers. Belongs to the engine's thread."""

    def __init__(
        self,
        family: Family,
        uploads: Uploads,
        cache: EncoderCache | None,
        digests: Digests | None = None,
    ) -> None:
        """`digests` where the names of media are wanted; a `cache` needs them."""
        self._family = family
        self._uploads = uploads
        self._cache = cache
        self._digests = digests

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        device: torch.device = self._family.model.device
        return device

    def expect(self, items: Sequence[Item]) -> None:
        """Items that will be encoded: begin to find out which of them have been already."""
        if self._digests is not None:
            self._digests.expect(items)

    def cost(self, item: Item, *, wait: bool) -> int | None:
        """An item's values, 0 where its outputs are there; None where that is not known without a `wait`, and where
        the item has not come."""
        if item.given:
            return 0
        kept = False if self._cache is None or item.key is None else self._cache.holds(item, wait=wait)
        if kept is None:
            return None
        if kept:
            return 0
        return item.values if item.is_here else None

    @torch.inference_mode()
    def encode(self, items: Sequence[Item]) -> list[EncodedRows]:
        """One result for each item, in their order. Raises whatever the model raises on impossible items, and
        `PixelsWanted` for absent ones whose outputs are not there."""
        if any(item.given for item in items):
            encoded = iter(self.encode([item for item in items if not item.given]))
            return [self._as_given(item) if item.given else next(encoded) for item in items]
        if self._cache is None:
            return self._run(items)
        found = {id(item): rows for item in items if item.key and (rows := self._cache.get(item)) is not None}
        missing: dict[object, Item] = {}  # one for each content; items that are not expected are nobody's twin
        for item in items:
            if id(item) not in found:
                missing.setdefault(_identity(item), item)
        fresh = dict(zip(missing, self._run(list(missing.values())), strict=True))
        for identity, item in missing.items():
            if item.key is not None:
                self._cache.put(item, fresh[identity])
        expected = sum(item.key is not None for item in items)
        made = sum(item.key is not None for item in missing.values())
        self._cache.record(hits=expected - made, misses=made)
        return [found[id(item)] if id(item) in found else fresh[_identity(item)] for item in items]

    def _run(self, items: Sequence[Item]) -> list[EncodedRows]:
        if any(item.absent for item in items):
            raise pixels_wanted()
        groups: dict[object, list[int]] = {}
        for number, item in enumerate(items):
            item.encoded = True
            groups.setdefault(item.form, []).append(number)
        results: dict[int, EncodedRows] = {}
        for numbers in groups.values():
            results.update(zip(numbers, self._together([items[number] for number in numbers]), strict=True))
        return [results[number] for number in range(len(items))]

    def upload(self, items: Iterable[Item]) -> None:
        """Begin to bring items to the device which will be encoded soon."""
        self._bring(item for item in items if not item.absent and self.cost(item, wait=False))

    def close(self) -> None:
        if self._digests is not None:
            self._digests.close()

    def forget(self) -> None:
        """Keep nothing of what has been encoded."""
        if self._cache is not None:
            self._cache.clear()

    def _bring(self, items: Iterable[Item]) -> None:
        for item in items:
            if not item.uploads:
                item.uploads = {name: self._uploads.begin(tensor) for name, tensor in item.tensors.items()}

    def _as_given(self, item: Item) -> EncodedRows:
        """What came as encoder outputs, on the device."""
        dtype = self._family.model.dtype
        there = {name: tensor_of(self._uploads.put(tensor)).to(dtype) for name, tensor in item.tensors.items()}
        return self._family.given_rows(there["embeds"], there.get("deepstack"))

    def _together(self, items: list[Item]) -> list[EncodedRows]:
        """Results of items of one form."""
        # Sounds come back without borders between them, and towers that pad all to the longest give a short one other
        # rows than alone: its answer would depend on its neighbours, and what is kept of it on who came with it.
        if len(items) > 1 and items[0].kind is not MediaKind.AUDIO:
            results = self._features(items)
            if len(results) == len(items):
                return results
        return [joined_rows(self._features([item])) for item in items]

    def _features(self, items: list[Item]) -> list[EncodedRows]:
        self._bring(items)
        first, dtype = items[0], self._family.model.dtype
        joined = {name: _joined([item.uploads[name].tensor() for item in items]) for name in first.tensors}
        if first.pixels is not None:
            joined[first.pixels] = normalised(joined[first.pixels], first.norm, dtype)
        given = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in joined.items()}
        return self._family.encode(first.kind, given)


def _identity(item: Item) -> object:
    return id(item) if item.key is None else item.key.result()


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
