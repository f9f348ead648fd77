"""What media are, by content: the names under which encoder outputs and prompts' beginnings are kept.

Made beside the engine's steps: a long clip takes longer to read than a decode step may last.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from deployments.model.multimodal.items import Item


class Digests:
    """Of items, made by a thread of their own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digests")

    def expect(self, items: Iterable[Item]) -> None:
        """Begin to make the digests of items that will be asked for."""
        for item in items:
            item.key = self._thread.submit(item.digest)

    def close(self) -> None:
        """Make no more digests."""
        self._thread.shutdown(cancel_futures=True)
