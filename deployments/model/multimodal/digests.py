"""What media are, by content: the names under which encoder outputs and prompts' beginnings are kept.

Made beside the engine's steps: a long clip takes longer to read than a decode step may last.
"""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from deployments.errors import PixelsWanted
from deployments.model.multimodal.items import Item


class Digests:
    """Of items, made by a thread of their own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digests")

    def expect(self, items: Iterable[Item]) -> None:
        """Begin to make the digests of items that will be asked for."""
        for item in items:
            item.key = _made(item) if item.absent else self._thread.submit(item.digest)

    def close(self) -> None:
        """Make no more digests."""
        self._thread.shutdown(cancel_futures=True)


def _made(item: Item) -> "Future[bytes]":
    """At once: of an absent item there is little to read."""
    made: Future[bytes] = Future()
    try:
        made.set_result(item.digest())
    except PixelsWanted as error:
        made.set_exception(error)
    return made
