"""Works on the batches of the folder: claims those that nobody works on, a few at a time, and carries on with each."""

import asyncio
import logging
import math
import time
from functools import partial

from deployments.ingress.batches.run import BatchRun, Means
from deployments.ingress.batches.state import ENDED, BatchStore, Claim

CLAIMS = 4
"""Batches that one replica works on at once: the rest are for other replicas."""
PAUSE_AFTER_FAILURE_S = 30.0
SWEEP_S = 60.0
"""Between two looks for files whose time is over."""

logger = logging.getLogger("sluice.batches")


class BatchRunner:
    """One for an ingress replica."""

    def __init__(self, store: BatchStore, means: Means) -> None:
        self._store, self._means = store, means
        self._running: dict[str, asyncio.Task[None]] = {}
        self._swept_at = -math.inf

    async def run(self) -> None:
        """Until it is cancelled; what it has claimed is free for others then."""
        try:
            while True:
                if not self._means.readiness.draining:
                    await self._claim_some()
                    await self._sweep()
                self._means.metrics.gauge("sluice_batch_allowed", self._means.concurrency.now)
                await asyncio.sleep(self._means.look_s)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _claim_some(self) -> None:
        try:
            for batch_id in await asyncio.to_thread(self._store.unfinished):
                if len(self._running) >= CLAIMS:
                    return
                if batch_id in self._running:
                    continue
                claim = await asyncio.to_thread(self._store.claim, batch_id)
                if claim is not None:
                    task = asyncio.create_task(self._work_on(claim))
                    self._running[batch_id] = task
                    task.add_done_callback(partial(self._ended, batch_id))
        except OSError as error:
            logger.error("the folder of batches can't be read: %s", error)

    async def _sweep(self) -> None:
        """Each replica does: whoever comes first."""
        if time.monotonic() - self._swept_at < SWEEP_S:
            return
        self._swept_at = time.monotonic()
        try:
            needed = await asyncio.to_thread(self._store.needed_files)
            await asyncio.to_thread(self._means.files.sweep, needed)
        except OSError as error:
            logger.error("the folder of batches can't be swept: %s", error)

    def _ended(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._running[batch_id]

    async def _work_on(self, claim: Claim) -> None:
        try:
            if claim.batch.state.status not in ENDED:
                await BatchRun(claim, self._means).run()
        except Exception:
            logger.exception("a batch was interrupted; it will be tried again")
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
        finally:
            claim.close()
