"""Rank 0's side: it tells the other ranks what to compute, watches over them, and ends with them.

Where one rank fails in a pass the others wait for it in vain: no pass can be repeated, the replica ends as a whole
(`RankLost`) and is replaced. Requests that can fail by themselves do so before the others are told.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait

import torch

from deployments.model.forward.batch import Chunk, Row
from deployments.model.forward.media_rows import PlacedRows
from deployments.model.forward.runner import ModelRunner
from deployments.model.parallel import messages
from deployments.model.parallel.led_storage import LedStorage
from deployments.model.parallel.ranks import TIMEOUT_S, RankLost, Ranks, listening

_NEWS_S = 1.0
_CLOSE_S = 5.0
"""Longest wait for the others to end."""

logger = logging.getLogger(__name__)


class Leader:
    """Tells the other ranks. All but `check_health` and `close` belongs to the engine's thread."""

    def __init__(self, channels: Sequence[Connection], host: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """`channels`: one to each further rank, in their order; `host`: this process's address for them."""
        self._channels = list(channels)
        self._host = host
        self._timeout_s = timeout_s
        self._news = threading.Condition()
        self._loaded = 0
        self._lost: RankLost | None = None
        self._closing = False
        self.ranks: Ranks | None = None
        """None until they have met."""
        self._watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._watcher.start()

    @property
    def count(self) -> int:
        """Of all ranks."""
        return len(self._channels) + 1

    def meet(self, device: torch.device) -> Ranks:
        """Wait until all ranks have found each other."""
        listener = listening(self._host)
        store = self._host, int(listener.getsockname()[1])
        for rank, channel in enumerate(self._channels, start=1):
            self._send(channel, messages.Join(rank, self.count, *store, self._timeout_s))
        self.ranks = Ranks(0, self.count, device, store, listener=listener, timeout_s=self._timeout_s)
        return self.ranks

    @contextmanager
    def together(self) -> Iterator[None]:
        """While open, all ranks do the same: what fails here because of a rank is told as its loss."""
        try:
            yield
        except Exception as error:
            if self._lost is None or error is self._lost:
                raise
            raise self._lost from error
        if self._lost is not None:
            raise self._lost

    def begin(self) -> None:
        """Wait until every rank has its part of the model, however long that takes. Raises `RankLost`."""
        with self._news:
            while self._loaded < len(self._channels) and self._lost is None:
                self._news.wait()
        self._tell(messages.Begin())

    def lead(self, runner: ModelRunner) -> None:
        """From now on the others do what this runner and its cache do."""
        runner.followers = self
        runner.cache.storage = LedStorage(runner.cache.storage, self._tell)

    @contextmanager
    def computing(self, rows: Sequence[Row], chunks: Sequence[Chunk], found: Sequence[PlacedRows]) -> Iterator[None]:
        """See `forward.runner.Followers`."""
        assert self.ranks is not None
        self._tell(messages.Pass.of(rows, chunks, found))
        try:
            for one in found:
                for tensor in one.rows.tensors:
                    self.ranks.from_first(tensor.contiguous())
            yield
        except Exception as error:
            with self._news:  # the reason may be on its way
                self._news.wait_for(lambda: self._lost is not None, _NEWS_S)
            raise self._lost or RankLost(f"a pass failed in rank 0 ({type(error).__name__})") from error
        if self._lost is not None:
            raise self._lost

    def check_health(self) -> None:
        """Raise `RankLost` once a rank is."""
        if self._lost is not None:
            raise RankLost(str(self._lost))

    def close(self) -> None:
        """Let the others end. The engine has."""
        self._closing = True
        for channel in self._channels:
            with suppress(OSError):  # it has ended before
                channel.send(messages.End())
        if self.ranks is not None:
            self.ranks.close()
        self._watcher.join(_CLOSE_S)
        if not self._watcher.is_alive():
            for channel in self._channels:
                channel.close()

    def _tell(self, message: object) -> None:
        if self._lost is not None:
            raise self._lost
        for channel in self._channels:
            self._send(channel, message)

    def _send(self, channel: Connection, message: object) -> None:
        try:
            channel.send(message)
        except OSError as error:
            raise self._lose(channel, "its process has ended") from error

    def _watch(self) -> None:
        """Hear what the others say, until all have ended."""
        open_ones = list(self._channels)
        while open_ones:
            for channel in wait(open_ones):
                assert isinstance(channel, Connection)
                try:
                    message = channel.recv()
                except (EOFError, OSError):
                    open_ones.remove(channel)
                    if not self._closing:
                        self._lose(channel, "its process has ended")
                    continue
                if isinstance(message, messages.Failed):
                    self._lose(channel, message.reason)
                else:
                    with self._news:
                        self._loaded += 1
                        self._news.notify_all()

    def _lose(self, channel: Connection, why: str) -> RankLost:
        """The first loss is the one that is told: others follow from it."""
        with self._news:
            first = self._lost is None
            if self._lost is None:
                self._lost = RankLost(f"rank {self._channels.index(channel) + 1} is lost: {why}")
            self._news.notify_all()
        if first:
            logger.error("%s; this replica ends", self._lost)
            if self.ranks is not None:
                self.ranks.abort()
        return self._lost
