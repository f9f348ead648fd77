"""Which requests may start, before any work on them: by their number, their bytes, and a share of the object store."""

import time
from collections.abc import Callable, Iterable, Iterator

from deployments.config import IngressConfig
from deployments.core.deadline import Deadline
from deployments.ingress.admission.client_usage import ClientUsage
from deployments.ingress.admission.lane import AdmissionQueue
from deployments.ingress.admission.lease import Lease
from deployments.ingress.admission.media_budget import MediaBudget
from deployments.ingress.admission.model_lanes import ModelLanes
from deployments.ingress.http.upload import IncomingBodies
from deployments.observability.metrics import MetricSink


def media_share(config: IngressConfig, store_bytes: float, replicas: int) -> int:
    """Bytes of media that each of `replicas` may let in, so that all of them together keep the configured bound."""
    total = config.max_media_bytes_in_flight
    if total is None:
        total = int(store_bytes * config.object_store_share)
    return max(1, total // replicas)


class Admission:
    """The lanes of one ingress replica: two for each model."""

    def __init__(
        self,
        config: IngressConfig,
        models: Iterable[str],
        media: MediaBudget,
        metrics: MetricSink,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`media`: this replica's share of what all requests may hold."""
        self._config = config
        self._metrics = metrics
        self.media = media
        self.bodies = IncomingBodies(config)
        usage = ClientUsage(clock)
        self.lanes = {model: ModelLanes(config, media, clock, self._running, usage) for model in models}

    def check(self, client: str, declared_bytes: int | None, deadline: Deadline) -> None:
        """Raise `Overloaded` when a request would be refused whatever it asks for: its body need not be read."""
        self._check(
            client, deadline, has_media=declared_bytes is not None and declared_bytes > self._config.max_text_bytes
        )

    def check_media(self, client: str, deadline: Deadline) -> None:
        """Raise `Overloaded` when even the smallest request with media would be refused."""
        self._check(client, deadline, has_media=True)

    async def admit(
        self, model: str, client: str, media_bytes: int, deadline: Deadline, *, background: bool = False
    ) -> Lease:
        """A lease for a whole request; `media_bytes` is 0 for text only. Raises `Overloaded` or `StageTimeout`.

        `background`: nobody waits for it, so it waits for everybody.
        """
        lane = self.lanes[model].lane_for(media_bytes)
        acquire = lane.acquire_background if background else lane.acquire
        return await acquire(client, media_bytes, deadline)

    def retry_after_s(self, model: str | None) -> float:
        """For a request that a stage has sent away; None: it is not known for which model it was."""
        lanes = self.lanes.values() if model is None else (self.lanes[model],)
        return max(each.media.retry_after_s() for each in lanes)

    @property
    def admitted(self) -> int:
        """Requests under way."""
        return sum(lane.admitted for lane in self._all())

    def report(self) -> None:
        """Tell the gauges how many run and wait, and what is held."""
        self._metrics.gauge("sluice_requests_running", self.admitted)
        for model, lanes in self.lanes.items():
            for lane in lanes.both:
                self._metrics.gauge("sluice_requests_allowed", lane.max_running, kind=lane.name, model=model)
                self._metrics.gauge("sluice_requests_heavy", lane.heavy, kind=lane.name, model=model)
            waiting = sum(lane.waiting for lane in lanes.both)
            self._metrics.gauge("sluice_requests_waiting", waiting, model=model)
        self._metrics.gauge("sluice_admitted_bytes", self.media.held_bytes)

    def _check(self, client: str, deadline: Deadline, *, has_media: bool) -> None:
        """Which model is meant, the body will tell: a request is sent away where all of them would do it."""
        if all(lanes.would_refuse(client, deadline, has_media=has_media) for lanes in self.lanes.values()):
            next(iter(self.lanes.values())).media.check(client, 1, deadline)

    def _all(self) -> Iterator[AdmissionQueue]:
        return (lane for lanes in self.lanes.values() for lane in lanes.both)

    def _running(self) -> int:
        return sum(lane.running + lane.background_running for lane in self._all())
