"""Encoder outputs that a client brings in place of media: a safetensors file (not a pickle), held against the model by
its header before any of its numbers is read.

Shape legend: N rows, one for each place in the prompt; D width of the model's embeddings; L layers of deepstack.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from deployments.errors import BadMedia, shown
from deployments.preprocessor.family import Family
from deployments.types import MediaKind

MAX_HEADER_BYTES = 64 * 1024
_FLOATS: dict[str, type[np.generic]] = {"F16": np.float16, "BF16": np.uint16, "F32": np.float32, "F64": np.float64}
_INTEGERS: dict[str, type[np.generic]] = {"I64": np.int64, "I32": np.int32}
_LARGEST = 65_504.0
"""Of a number in float16: encoder outputs are far below, and what is far above makes a model's numbers overflow."""


@dataclass(frozen=True, slots=True)
class Embeds:
    """One item's encoder outputs."""

    rows_ND: NDArray[Any]
    """float32, or float64 where the file has that."""
    deepstack_LND: NDArray[Any] | None
    grid_thw: tuple[int, int, int] | None
    """Patches in time, height and width, of families that place their rows by them."""


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_embeds(data: NDArray[np.uint8], kind: MediaKind, family: Family, label: str) -> Embeds:
    """The outputs in a file's bytes. Raises `BadMedia` naming the item for what does not fit this model."""
    try:
        entries, body = _entries(data)
        _check(entries, len(data) - body, kind, family)
        rows_ND = _floats(data[body:], entries[f"{kind}_embeds"])
        deepstack = entries.get(f"{kind}_deepstack_embeds")
        deepstack_LND = None if deepstack is None else _floats(data[body:], deepstack)
        return Embeds(rows_ND, deepstack_LND, _grid(data[body:], entries.get(f"{kind}_grid_thw")))
    except BadMedia as error:
        raise BadMedia(f"{label}: {error.message}", param=label) from error


def _entries(data: NDArray[np.uint8]) -> tuple[dict[str, _Entry], int]:
    """What the header tells of each tensor, and where their numbers begin."""
    size = int.from_bytes(data[:8].tobytes(), "little")
    if not 0 < size <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise BadMedia("the safetensors header is cut or too long")
    try:
        header = orjson.loads(data[8 : 8 + size].tobytes())
        header.pop("__metadata__", None)
        entries = {
            name: _Entry(str(said["dtype"]), tuple(map(_whole, said["shape"])), *map(_whole, said["data_offsets"]))
            for name, said in header.items()
        }
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadMedia("the safetensors header is malformed") from error
    return entries, 8 + size


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


def _check(entries: dict[str, _Entry], size_bytes: int, kind: MediaKind, family: Family) -> None:
    """All that the header can tell."""
    layers = 0 if kind is MediaKind.AUDIO else family.deepstack_layers
    main, deepstack, grid = f"{kind}_embeds", f"{kind}_deepstack_embeds", f"{kind}_grid_thw"
    needed = {main} | ({deepstack} if layers else set())
    for name in entries:
        if name not in needed and name != grid:
            known = ", ".join(sorted(needed | {grid}))
            raise BadMedia(f"the tensor {shown(name)!r} is none that this model takes; it takes: {known}")
    for name in sorted(needed - entries.keys()):
        shape = f"[{layers}, rows, {family.width}]" if name == deepstack else f"[rows, {family.width}]"
        raise BadMedia(f"the tensor `{name}` of shape {shape} is missing")
    rows = entries[main].shape[0] if len(entries[main].shape) == 2 else 0
    wanted: dict[str, list[tuple[int, ...]]] = {
        main: [(rows, family.width)],
        deepstack: [(layers, rows, family.width)],
        grid: [(1, 3), (3,)],
    }
    for name, entry in entries.items():
        kinds = _INTEGERS if name == grid else _FLOATS
        if entry.dtype not in kinds:
            raise BadMedia(f"`{name}` is of type {shown(entry.dtype)}; it may be {', '.join(kinds)}")
        if entry.shape not in wanted[name] or not rows:
            takes = {main: f"[rows, {family.width}]", grid: "[1, 3]"}.get(name, f"[{layers}, rows, {family.width}]")
            raise BadMedia(f"`{name}` has the shape {list(entry.shape)}; this model takes {takes}")
        length = math.prod(entry.shape) * np.dtype(kinds[entry.dtype]).itemsize
        if entry.stop - entry.start != length or entry.stop > size_bytes:
            raise BadMedia(f"`{name}` lies outside of the file, or is not as long as its shape")


def _floats(body: NDArray[np.uint8], entry: _Entry) -> NDArray[Any]:
    raw = body[entry.start : entry.stop].view(_FLOATS[entry.dtype]).reshape(entry.shape)
    if entry.dtype == "BF16":
        numbers: NDArray[Any] = (raw.astype(np.uint32) << 16).view(np.float32)
    else:
        numbers = raw.astype(np.float64 if entry.dtype == "F64" else np.float32)
    if not (np.abs(numbers) <= _LARGEST).all():
        raise BadMedia(f"the embeddings hold what is no number, or is larger than {_LARGEST:.0f}")
    return numbers


def _grid(body: NDArray[np.uint8], entry: _Entry | None) -> tuple[int, int, int] | None:
    if entry is None:
        return None
    time, height, width = body[entry.start : entry.stop].view(_INTEGERS[entry.dtype]).tolist()
    if min(time, height, width) < 1:
        raise BadMedia("the grid of patches has a side below 1")
    return time, height, width
