"""Which replica a key prefers, and when it gives that up: rendezvous hashing with bounded load. Knows no Ray.

Each replica draws a number for each key, by hashing both names, and the highest draw wins (highest random weight). All
callers find the same order without talking to each other; when a replica comes or goes, the keys that it wins or had
won move and no others: one in n of them.
"""

import hashlib
from collections.abc import Iterable, Sequence


def ranked(key: str, replicas: Iterable[str]) -> list[str]:
    """Replicas by name, the one that `key` prefers first; the others in the order in which they take its place."""
    return sorted(replicas, key=lambda replica: _draw(key, replica), reverse=True)


def preferred(key: str, replicas: Iterable[str]) -> str:
    """The first of them."""
    return max(replicas, key=lambda replica: _draw(key, replica))


def take_more(loads: Sequence[int | None], factor: float, places: int) -> list[bool]:
    """Whether each replica may have one more request although another one could have it; the least busy one always may.

    `loads`: requests at each; None where it isn't known, which says nothing for or against it. One that works on less
    than `places` is not busy; beyond that none may have more than `factor` (at least 1) times what the others have.
    """
    known = [load for load in loads if load is not None]
    total, others = sum(known), len(known) - 1
    return [
        load is None or others == 0 or load + 1 <= max(places, factor * ((total - load) / others + 1)) for load in loads
    ]


def in_turn(loads: Sequence[int], turn: int) -> list[int]:
    """Numbers of the replicas with these loads, least busy first; of equally busy ones another is first each `turn`."""
    numbers = range(len(loads))
    return sorted(numbers, key=lambda number: (loads[number], (number - turn) % len(loads)))


def _draw(key: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{replica} {key}".encode(), digest_size=8).digest()
