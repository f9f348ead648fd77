"""Pixels that come while their request is worked on already: group after group, in the prompt's order.

The whole tensor is there from the start, as room; what has come of it is told by a number of rows. So a request's items
are made of it as of any other, and wait one by one until their rows have come.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.errors import InternalError


class Arrivals:
    """Filled by one thread at a time; the engine's thread reads what has come. Rows that have come stay as they are."""

    def __init__(self, rows: int, first: NDArray[Any]) -> None:
        """Room for `rows` in all, of which `first` are the first."""
        self.array: NDArray[Any] = np.empty((rows, *first.shape[1:]), first.dtype)
        """(rows, values of a row)"""
        self.rows = 0
        """That have come."""
        self.add(first)

    def add(self, rows: NDArray[Any]) -> None:
        """The next ones. Raises `InternalError` for rows that there is no room for."""
        stop = self.rows + len(rows)
        if stop > len(self.array) or rows.shape[1:] != self.array.shape[1:] or rows.dtype != self.array.dtype:
            raise InternalError("a group of a clip's frames has not the size that was told")
        self.array[self.rows : stop] = rows
        self.rows = stop  # last: who sees the number may read the rows

    def check_complete(self) -> None:
        """Raise `InternalError` where rows are missing and none will come."""
        if self.rows < len(self.array):
            raise InternalError("a clip's frames are fewer than was told")
