"""Which requests may start, before any work on them: by their number, their bytes, and a share of the object store.

Text-only requests and requests with media have lanes of their own, so that text never waits behind media.
"""

import time
from collections.abc import Callable

from deployments.config import IngressConfig
from deployments.core.deadline import Deadline
from deployments.ingress.admission.lane import AdmissionQueue, Lease, QueueLimits
from deployments.ingress.http.upload import IncomingBodies
from deployments.observability.metrics import MetricSink


def media_share(config: IngressConfig, store_bytes: float, replicas: int) -> int:
    """Bytes of media that each of `replicas` may let in, so that all of them together keep the configured bound."""
    total = config.max_media_bytes_in_flight
    if total is None:
        total = int(store_bytes * config.object_store_share)
    return max(1, total // replicas)


class Admission:
    """The two lanes of one ingress replica."""

    def __init__(
        self,
        config: IngressConfig,
        media_bytes: int,
        metrics: MetricSink,
        clock: Callable[[], float] = time.monotonic,
        media_changed: Callable[[int, int], None] | None = None,
    ) -> None:
        """`media_bytes`: this replica's share of what all requests may hold. `media_changed(held_bytes, max_bytes)`:
        for what makes way for them."""
        self._config = config
        self._metrics = metrics
        self.text = AdmissionQueue("text", self._limits(config.max_running_text), 1, clock, self._running)
        self.bodies = IncomingBodies(config)
        self.media = AdmissionQueue(
            "media", self._limits(config.max_running_media), media_bytes, clock, self._running, media_changed
        )

    def check(self, client: str, declared_bytes: int | None, deadline: Deadline) -> None:
        """Raise `Overloaded` when a request would be refused whatever it asks for: its body need not be read."""
        has_media = declared_bytes is not None and declared_bytes > self._config.max_text_bytes
        if has_media or self.text.objection(client, 0, deadline) is not None:
            self.check_media(client, deadline)

    def check_media(self, client: str, deadline: Deadline) -> None:
        """Raise `Overloaded` when even the smallest request with media would be refused."""
        self.media.check(client, 1, deadline)

    async def admit(self, client: str, media_bytes: int, deadline: Deadline, *, background: bool = False) -> Lease:
        """A lease for a whole request; `media_bytes` is 0 for text only. Raises `Overloaded` or `StageTimeout`.

        `background`: nobody waits for it, so it waits for everybody.
        """
        lane = self.media if media_bytes else self.text
        acquire = lane.acquire_background if background else lane.acquire
        return await acquire(client, media_bytes, deadline)

    @property
    def admitted(self) -> int:
        """Requests under way."""
        return self.text.admitted + self.media.admitted

    def report(self) -> None:
        """Tell the gauges how many run and wait, and what is held."""
        self._metrics.gauge("sluice_requests_running", self.admitted)
        for lane in (self.text, self.media):
            self._metrics.gauge("sluice_requests_allowed", lane.max_running, kind=lane.name)
        self._metrics.gauge("sluice_requests_waiting", self.text.waiting + self.media.waiting)
        self._metrics.gauge("sluice_admitted_bytes", self.media.held_bytes)

    def _running(self) -> int:
        return sum(lane.running + lane.background_running for lane in (self.text, self.media))

    def _limits(self, max_running: int) -> QueueLimits:
        ours = self._config
        return QueueLimits(
            max_running,
            ours.max_waiting,
            ours.max_wait_s,
            ours.max_burst_wait_s,
            ours.max_running_per_client,
            ours.target_ttft_s,
            ours.max_ttft_s,
        )
