"""What the towers encode: one picture, one sound, one clip or a frame of it, on the host until its turn comes.

Families that do not tell their items apart have one item a request and modality.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from deployments.errors import PixelsWanted
from deployments.model.multimodal.arrivals import Arrivals
from deployments.model.multimodal.uploads import Upload
from deployments.types import MediaKind, PixelNorm


@dataclass(slots=True, eq=False)
class Item:
    """One thing to encode, with the feature function's arguments for it alone, as the processor made them."""

    kind: MediaKind
    tensors: Mapping[str, torch.Tensor]
    pixels: str | None = None
    """Which of the tensors holds pixels."""
    norm: PixelNorm | None = None
    """How to normalise them where they are uint8."""
    main: str | None = None
    """Which of the tensors its content is in."""
    uploads: dict[str, Upload] = field(default_factory=dict)
    """Of the tensors, by name, once they have begun."""
    given: bool = False
    """Whether the tensors are encoder outputs already: `embeds` [N, D], and `deepstack` [L, N, D] where there are."""
    key: "Future[bytes] | None" = None
    """Its digest, where encoder outputs are kept for media that are seen again."""
    name: str = ""
    """What decides all of `main`, or of what is `given`, in place of its bytes; empty where nobody told."""
    salt: str = ""
    """Items of unequal salts are unequal."""
    labels: tuple[str, ...] = ()
    """The items of the request that it is of, as far as that is known."""
    encoded: bool = False
    """Whether a tower had to look at it."""
    absent: bool = False
    """Whether `main` holds no content, only its shape and type."""
    arrivals: Arrivals | None = None
    """Of which `main` is a part, where that comes group after group."""
    until: int = 0
    """How many rows have come of them once its own ones have."""

    @property
    def is_here(self) -> bool:
        """Whether its content has come; its shape is known before."""
        return self.arrivals is None or self.arrivals.rows >= self.until

    @property
    def form(self) -> object:
        """Items of equal form can be joined along their first axis."""
        return self.kind, self.norm, tuple(sorted((n, t.shape[1:], t.dtype) for n, t in self.tensors.items()))

    @property
    def values(self) -> int:
        """How many numbers it has: what its encoding costs is roughly in proportion to it."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for name, t in self.tensors.items() if not (self.absent and name == self.main))

    def digest(self) -> bytes:
        """Over kind, normalisation, names, shapes, types and content: bytes, or its name in place of the many.

        Raises `PixelsWanted` for an absent item without a name.
        """
        if self.absent and not self.name:
            raise pixels_wanted()
        digest = hashlib.sha256(repr((self.kind.value, self.norm, self.salt, self.name)).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            if self.name and (self.given or name == self.main):
                continue
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.digest()


def pixels_wanted() -> PixelsWanted:
    """What an absent item that is not known ends its request with."""
    return PixelsWanted("the model does not know media of this request that were not sent along")


def rows_of_items(items: Sequence[Item], places_T: torch.Tensor) -> list[int] | None:
    """Placeholders of each of a request's items of one modality, as far as shapes tell; `places_T` (bool) are all.

    By grids in proportion to their sizes, else one stretch of places each. What is told here is held against what the
    encoder gives before anything is kept under it.
    """
    if items and all(item.given for item in items):
        return [len(item.tensors["embeds"]) for item in items]
    total = int(places_T.sum())
    grids = [next((t for name, t in item.tensors.items() if name.endswith("_grid_thw")), None) for item in items]
    if items and all(grid is not None for grid in grids):
        sizes = [int(grid.prod(1).sum()) for grid in grids if grid is not None]
        rows, rests = zip(*(divmod(total * size, max(1, sum(sizes))) for size in sizes), strict=True)
        return None if any(rests) else list(rows)
    edges = torch.nn.functional.pad(places_T.int(), (1, 1)).diff().nonzero()[:, 0]
    stretches = (edges[1::2] - edges[::2]).tolist()
    return stretches if len(stretches) == len(items) else None


def given_items(kind: MediaKind, tensors: Mapping[str, torch.Tensor]) -> list[Item]:
    """A request's items of one modality that came as encoder outputs: `{kind}_embeds` [N, D], of each item as many
    rows as `{kind}_embeds_rows` tells, and `{kind}_deepstack_embeds` [L, N, D] where the family has such."""
    rows = tensors[f"{kind}_embeds_rows"].tolist()
    parts = {"embeds": torch.split(tensors[f"{kind}_embeds"], rows)}
    deepstack = tensors.get(f"{kind}_deepstack_embeds")
    if deepstack is not None:
        parts["deepstack"] = torch.split(deepstack, rows, dim=1)
    return [Item(kind, {name: pieces[i] for name, pieces in parts.items()}, given=True) for i in range(len(rows))]


def split_items(
    kind: MediaKind,
    tensors: Mapping[str, torch.Tensor],
    pixels: str | None = None,
    norm: PixelNorm | None = None,
    *,
    by_frame: bool = False,
) -> list[Item]:
    """A request's items of one modality: by grids, or by equal first axes; one item where neither tells.

    `by_frame`: the frames of a clip become items of their own, for towers that look at one frame at a time.
    """
    if by_frame:
        tensors = _frames_as_clips(tensors)
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
        return [Item(kind, tensors, pixels, norm)]
    return [Item(kind, {name: pieces[i] for name, pieces in parts.items()}, pixels, norm) for i in range(count)]


def _frames_as_clips(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Clips told apart by grids (time, height, width), or by their numbers of frames, as clips of one frame each."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith("_grid_thw"):
            frames = tensor.repeat_interleave(tensor[:, 0], dim=0)
            frames[:, 0] = 1
            found[name] = frames
        elif name == "num_frames_per_video":
            found[name] = torch.ones(int(tensor.sum()), dtype=tensor.dtype)
    return found
