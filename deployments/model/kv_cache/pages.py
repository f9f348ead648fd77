"""Which pages of the store are whose: a pool that counts users, and a table for each sequence.

Pages and not extents: a page can have several users (the answers of one prompt, requests about one clip), a sequence
takes what it needs as it grows, and a card's kernels read through a table as fast as in place. A CPU has to gather what
is scattered, so that the pool keeps a sequence's pages together where it can: a new table begins in the middle of the
longest free stretch, with room to grow, and goes on behind its last page. Attention sees a view then.
"""

from dataclasses import dataclass, field


class PagePool:
    """Counts users of `num_pages` pages; a page without users is free. Belongs to the engine's thread."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.num_free = num_pages
        self._users = [0] * num_pages

    def users(self, page: int) -> int:
        return self._users[page]

    def take(self, count: int, after: int | None = None) -> list[int] | None:
        """So many free pages, each with one user from now on; None where there are not as many.

        `after`: the pages behind this one if they are free.
        """
        if count > self.num_free:
            return None
        pages = [] if after is None else self._behind(after, count)
        while len(pages) < count:
            first, length = self._longest_stretch(set(pages))
            wanted = min(count - len(pages), length)
            begin = first if first == 0 or length == wanted else first + (length - wanted) // 2
            pages += range(begin, begin + wanted)
        for page in pages:
            self._users[page] = 1
        self.num_free -= count
        return pages

    def share(self, pages: list[int]) -> None:
        """One more user of each."""
        for page in pages:
            self._users[page] += 1

    def release(self, pages: list[int]) -> None:
        """One user less of each."""
        for page in pages:
            self._users[page] -= 1
            self.num_free += self._users[page] == 0

    def _behind(self, page: int, count: int) -> list[int]:
        stop = page + 1
        while stop < self.num_pages and stop <= page + count and not self._users[stop]:
            stop += 1
        return list(range(page + 1, stop))

    def _longest_stretch(self, taken: set[int]) -> tuple[int, int]:
        """First page and length of the longest stretch of free pages."""
        best, first = (0, 0), None
        for page in range(self.num_pages + 1):
            free = page < self.num_pages and not self._users[page] and page not in taken
            if free and first is None:
                first = page
            elif not free and first is not None:
                best = max(best, (page - first, -first))
                first = None
        return -best[1], best[0]


@dataclass(slots=True, eq=False)
class PageTable:
    """The pages of one sequence, in its order."""

    page_size: int
    pages: list[int] = field(default_factory=list)
    state: int = -1
    """Its row in recurrent layers; -1 where there is none."""
    _stretches: list[list[int]] = field(default_factory=list)
    """[first page, number of pages] of consecutive ones."""

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """(first page, number of pages) of consecutive ones, in order."""
        return [(first, count) for first, count in self._stretches]

    @property
    def capacity(self) -> int:
        """Tokens that there is room for."""
        return len(self.pages) * self.page_size

    def extend(self, pages: list[int]) -> None:
        for page in pages:
            last = self._stretches[-1] if self._stretches else None
            if last is not None and last[0] + last[1] == page:
                last[1] += 1
            else:
                self._stretches.append([page, 1])
        self.pages += pages

    def clear(self) -> list[int]:
        """Empty the table; the pages it had."""
        pages, self.pages, self._stretches = self.pages, [], []
        return pages

    def place(self, token: int) -> int:
        """Where in the store a token's key is."""
        return self.pages[token // self.page_size] * self.page_size + token % self.page_size

    def slices(self, start: int, stop: int) -> list[slice]:
        """Where the keys of the tokens `start` to `stop` are: one slice where their pages are consecutive."""
        found, before = [], 0
        for first, count in self._stretches:
            low, high = max(start - before, 0), min(stop - before, count * self.page_size)
            if low < high:
                found.append(slice(first * self.page_size + low, first * self.page_size + high))
            before += count * self.page_size
        return found
