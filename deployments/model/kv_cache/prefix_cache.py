"""Beginnings of prompts whose keys and values are still in memory (automatic prefix caching), found page by page.

A tree: each node is a page, its children are the pages that followed it. What a page holds is known by its tokens,
their rotary positions and, where media stand, the digest of the item: pages are compared, never assumed equal. Reuse
goes to the token: of the page where two prompts part the common tokens are copied, else a clip whose last places lie
there would have to be encoded whole again. Pages that nobody else uses leave when memory is wanted, the least recently
used first.

Shape legend: T tokens, C columns that make a token's identity.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.model.kv_cache.pages import PagePool

Content = NDArray[np.int64]
"""[T, C]: what each token is; equal rows after equal rows have equal keys and values."""

_LOOKED_AT = 64
"""So many of a page's followers are compared token by token, the latest first."""
_WORD_BYTES = 8
"""Of an int64, of which a token has C."""


@dataclass(slots=True, eq=False)
class _Node:
    """A page and what it holds."""

    page: int
    raw: bytes
    """What its tokens are, one after the other: comparing bytes costs a fraction of comparing arrays, and where many
    short prompts were asked, a page has hundreds of followers."""
    parent: "_Node | None"
    key: bytes = b""
    full: "dict[bytes, _Node]" = field(default_factory=dict)
    """Following pages that are full, by a digest of what they hold."""
    partial: "list[_Node]" = field(default_factory=list)
    """Following pages that are not; nothing follows those."""

    @property
    def is_leaf(self) -> bool:
        return not self.full and not self.partial

    def common_bytes(self, raw: bytes) -> int:
        """How much of `raw` it begins with, which is not nothing."""
        words = min(len(self.raw), len(raw)) // _WORD_BYTES
        differing = np.frombuffer(self.raw, np.int64, words) != np.frombuffer(raw, np.int64, words)
        first = int(differing.argmax())
        return _WORD_BYTES * (first if differing[first] else words)


@dataclass(frozen=True, slots=True)
class Match:
    """What is there of a prompt."""

    pages: list[int]
    """Whole ones."""
    tail_page: int | None
    tail_tokens: int
    """Tokens that the page after them has in common with the prompt."""


class PrefixCache:
    """One user of each of its pages. Belongs to the engine's thread."""

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self._pool = pool
        self._page_size = page_size
        self._roots: dict[str, _Node] = {}
        """By salt: requests of unequal salts share nothing."""
        self._nodes: OrderedDict[int, _Node] = OrderedDict()
        """By page, the least recently used first; a page comes after those that follow it."""

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def num_idle(self) -> int:
        """Pages that nobody else uses."""
        return sum(self._pool.users(page) == 1 for page in list(self._nodes))

    def match(self, content: Content, salt: str) -> Match:
        """The longest beginning of a prompt that is there; at least its last token is not."""
        node = self._roots.get(salt)
        pages: list[int] = []
        place, size = 0, self._page_size
        most = len(content) - 1
        while node is not None and place + size <= most:
            following = node.full.get(_key(content[place : place + size]))
            if following is None:
                break
            node, place = following, place + size
            pages.append(node.page)
        if node is None:
            return Match([], None, 0)
        best, tail = node, 0
        raw, row = content[place:most].tobytes(), _row_bytes(content)
        for follower in [*node.partial, *node.full.values()][-_LOOKED_AT:]:
            if follower.raw.startswith(raw[: (tail + 1) * row]) and tail * row < len(raw):
                best, tail = follower, follower.common_bytes(raw) // row
        self._touch(best)
        return Match(pages, best.page if tail else None, tail)

    def insert(self, content: Content, pages: list[int], salt: str) -> None:
        """Remember a sequence's first tokens, which are in `pages`; the last of these may be written to further on."""
        node = self._roots.setdefault(salt, _Node(-1, b"", None))
        for number, page in enumerate(pages):
            piece = content[number * self._page_size : (number + 1) * self._page_size]
            if not len(piece):
                break
            following = self._follow(node, piece, page)
            if following is None:
                break
            node = following
        self._touch(node)

    def evict(self) -> bool:
        """Free the page that was least recently used of those that nobody else uses; False where there is none."""
        for page, node in self._nodes.items():
            if node.is_leaf and self._pool.users(page) == 1:
                self._forget(node)
                return True
        return False

    def clear(self) -> None:
        """Free every page that nobody else uses."""
        while self.evict():
            pass

    def _follow(self, node: _Node, piece: Content, page: int) -> _Node | None:
        """The node that holds `piece` after `node`: one that is there, or one of `page` if that stands nowhere else."""
        raw, key = piece.tobytes(), _key(piece)
        known = node.full.get(key)
        if known is not None:
            return known
        whole = len(piece) == self._page_size
        if not whole:
            longer = next((other for other in node.partial if other.raw.startswith(raw)), None)
            if longer is not None:
                return longer
        mine = self._nodes.get(page)
        if mine is None:
            mine = _Node(page, raw, node)
            self._nodes[page] = mine
            self._pool.share([page])
        elif mine in node.partial:  # written to further since
            node.partial.remove(mine)
            mine.raw = raw
        else:
            return None
        mine.key = key
        if whole:
            node.full[key] = mine
        else:
            node.partial.append(mine)
        return mine

    def _forget(self, node: _Node) -> None:
        parent = node.parent
        assert parent is not None
        if node.key in parent.full:
            del parent.full[node.key]
        else:
            parent.partial.remove(node)
        del self._nodes[node.page]
        self._pool.release([node.page])
        if parent.parent is None and parent.is_leaf:
            self._roots = {salt: root for salt, root in self._roots.items() if root is not parent}

    def _touch(self, node: _Node | None) -> None:
        while node is not None and node.page >= 0:
            self._nodes.move_to_end(node.page)
            node = node.parent


def content_of(
    ids_T: torch.Tensor, positions_AT: torch.Tensor | None, marks: list[tuple[torch.Tensor, bytes]]
) -> Content:
    """What each token of a prompt is: its id, its rotary positions, and the item whose place it is.

    `marks`: indices of an item's places, and the item's digest or several. All of it is on the host.
    """
    num_tokens = len(ids_T)
    axes = 0 if positions_AT is None else len(positions_AT)
    content = np.zeros((num_tokens, 3 + axes), dtype=np.int64)
    content[:, 0] = ids_T
    for where, digest in marks:
        content[where, 1:3] = np.frombuffer(hashlib.sha256(digest).digest()[:16], dtype=np.int64)
    if positions_AT is not None:
        content[:, 3:] = positions_AT.T.double().contiguous().view(torch.int64)
    return content


def joined_content(first: Content, second: Content) -> Content:
    """One after the other."""
    return np.concatenate([first, second])


def _row_bytes(content: Content) -> int:
    """Of one token."""
    return int(content.shape[1] * content.itemsize)


def _key(piece: Content) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(piece).data).digest()
