"""What the engine asks of keys and values: room for tokens, sharing, moving to the host and back, known beginnings.

A prompt's pages are shared by its answers; the page in which they part is copied. A sequence that has to make way goes
to the host's memory as it is and comes back as it is: nothing is computed again, media included, and its answer does
not depend on having been moved, in any precision. It takes at most as much memory there as the store has here, since
nobody new is admitted before those who made way are back.
"""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache

from deployments.model.kv_cache.pages import PagePool, PageTable
from deployments.model.kv_cache.prefix_cache import Content, Match, PrefixCache
from deployments.model.kv_cache.storage import Held, LocalStorage, Storage
from deployments.model.kv_cache.store import CachePlan


@dataclass(frozen=True, slots=True)
class Moved:
    """What several tables had, on the host."""

    pages: list[int]
    """Their numbers of then, each once."""
    tables: list[list[int]]
    held: Held


class KVCache:
    """Belongs to the engine's thread."""

    def __init__(
        self, plan: CachePlan, *, num_pages: int, page_size: int, num_states: int, max_length: int, device: torch.device
    ) -> None:
        self.page_size = page_size
        self.max_length = max_length
        """Tokens of prompt and answer together that one sequence may have."""
        self.max_sequences = num_states
        self.pool = PagePool(num_pages)
        # One page more than there are: what nobody owns is written to there.
        local = LocalStorage(
            plan, num_pages=num_pages + 1, page_size=page_size, num_states=num_states + 1, device=device
        )
        self.layers: Cache = local.layers
        self.storage: Storage = local
        self.nobodys_place = num_pages * page_size
        self.recurrent = plan.recurrent
        self.nbytes = plan.token_bytes * (num_pages + 1) * page_size + plan.state_bytes * (num_states + 1)
        self.prefixes: PrefixCache | None = None
        self._free_states = list(range(num_states))

    def enable_prefixes(self) -> None:
        """Keep what sequences leave behind, until the memory is wanted. Not for families with recurrent layers, whose
        state after a prompt's beginning is not kept."""
        if not self.recurrent:
            self.prefixes = PrefixCache(self.pool, self.page_size)

    @property
    def num_available(self) -> int:
        """Pages that are free, or free as soon as they are wanted."""
        return self.pool.num_free + (0 if self.prefixes is None else self.prefixes.num_idle)

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def open(self) -> PageTable:
        """A table of no tokens."""
        table = PageTable(self.page_size)
        if self.recurrent:
            table.state = self._free_states.pop()
        return table

    def reserve(self, table: PageTable, num_tokens: int) -> bool:
        """Make room for a sequence's first tokens; False, and nothing has changed, where there is none."""
        missing = self.pages_for(num_tokens) - len(table.pages)
        if missing <= 0:
            return True
        pages = self._take(missing, table.pages[-1] if table.pages else None)
        if pages is not None:
            table.extend(pages)
        return pages is not None

    def fork(self, source: PageTable, target: PageTable, num_tokens: int) -> bool:
        """Let an empty table begin with another's first tokens; False, and nothing has changed, without room."""
        whole, rest = divmod(num_tokens, self.page_size)
        if not self._begin(target, source.pages[:whole], source.pages[whole] if rest else None, rest):
            return False
        if self.recurrent:
            self.storage.copy_state(source.state, target.state)
        return True

    def close(self, table: PageTable) -> None:
        """Give back what a table has; it may have been closed before."""
        self.pool.release(table.clear())
        if table.state >= 0:
            self._free_states.append(table.state)
            table.state = -1

    def move_out(self, tables: list[PageTable]) -> Moved:
        """Take everything of these tables to the host and close them."""
        pages = list(dict.fromkeys(page for table in tables for page in table.pages))
        held = self.storage.take_out(pages, [table.state for table in tables])
        moved = Moved(pages, [list(table.pages) for table in tables], held)
        for table in tables:
            self.close(table)
        return moved

    def move_in(self, moved: Moved, tables: list[PageTable]) -> bool:
        """Bring back what was moved out, into new tables; False, and nothing has changed, without room."""
        pages = self._take(len(moved.pages), None)
        if pages is None:
            return False
        self.storage.put_back(moved.held, pages, [table.state for table in tables])
        renamed = dict(zip(moved.pages, pages, strict=True))
        for table, old in zip(tables, moved.tables, strict=True):
            mine = [renamed[page] for page in old]
            self.pool.share(mine)
            table.extend(mine)
        self.pool.release(pages)
        return True

    def forget(self, moved: Moved) -> None:
        """What was moved out does not come back."""
        self.storage.forget(moved.held)

    def match(self, content: Content, salt: str) -> Match:
        """What is known of a prompt's beginning."""
        return Match([], None, 0) if self.prefixes is None else self.prefixes.match(content, salt)

    def begin(self, table: PageTable, match: Match, num_tokens: int) -> bool:
        """Let an empty table begin with the first tokens of a match; False, and nothing has changed, without room."""
        whole, rest = divmod(num_tokens, self.page_size)
        tail = match.pages[whole] if whole < len(match.pages) else match.tail_page
        return self._begin(table, match.pages[:whole], tail if rest else None, rest)

    def remember(self, table: PageTable, content: Content, salt: str) -> None:
        """Keep a table's first tokens for those who begin alike."""
        if self.prefixes is not None and len(content):
            self.prefixes.insert(content, table.pages, salt)

    def commit(self) -> None:
        """A pass has gone well."""
        self.storage.commit()

    def discard(self) -> None:
        """A pass has failed."""
        self.storage.discard()

    def _begin(self, table: PageTable, shared: list[int], tail: int | None, rest: int) -> bool:
        self.pool.share(shared)
        if tail is not None:
            self.pool.share([tail])
        mine = [] if tail is None else self._take(1, shared[-1] if shared else None)
        if mine:
            self.storage.copy(_first(tail, self.page_size), _first(mine[0], self.page_size), rest)
        if tail is not None:
            self.pool.release([tail])
        if mine is None:
            self.pool.release(shared)
            return False
        table.extend([*shared, *mine])
        return True

    def _take(self, count: int, after: int | None) -> list[int] | None:
        while self.pool.num_free < count:
            if self.prefixes is None or not self.prefixes.evict():
                return None
        return self.pool.take(count, after)


def _first(page: int | None, page_size: int) -> int:
    assert page is not None
    return page * page_size
