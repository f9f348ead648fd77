"""The two lanes of one model: text-only requests, and requests with media, so that text never waits behind media.

A model has lanes for itself because a lane finds out how many requests its stages keep pace with: beside a model that
takes seconds to a first token, a quick one would be let starve. The bytes of media are one budget for all.
"""

from collections.abc import Callable

from deployments.config import IngressConfig
from deployments.core.deadline import Deadline
from deployments.ingress.admission.client_usage import ClientUsage
from deployments.ingress.admission.lane import AdmissionQueue, QueueLimits
from deployments.ingress.admission.media_budget import MediaBudget

NO_BYTES = 1
"""Of the budget of a lane whose requests hold none."""


class ModelLanes:
    def __init__(
        self,
        config: IngressConfig,
        budget: MediaBudget,
        clock: Callable[[], float],
        crowd: Callable[[], int],
        usage: ClientUsage,
    ) -> None:
        """`crowd()`: how many run in all lanes that share stages with these; `usage`: what clients took of them."""
        self._config = config
        text, media = _limits(config, config.max_running_text), _limits(config, config.max_running_media)
        self.text = AdmissionQueue("text", text, MediaBudget(NO_BYTES), clock, crowd, usage)
        self.media = AdmissionQueue("media", media, budget, clock, crowd, usage)

    @property
    def both(self) -> tuple[AdmissionQueue, AdmissionQueue]:
        return self.text, self.media

    def lane_for(self, media_bytes: int) -> AdmissionQueue:
        return self.media if media_bytes else self.text

    def would_refuse(self, client: str, deadline: Deadline, *, has_media: bool) -> bool:
        """A request, whatever it asks for. `has_media`: it is known to have some."""
        if not has_media and self.text.objection(client, 0, deadline) is None:
            return False
        return self.media.objection(client, 1, deadline) is not None


def _limits(config: IngressConfig, max_running: int) -> QueueLimits:
    return QueueLimits(
        max_running,
        config.max_waiting,
        config.max_wait_s,
        config.max_burst_wait_s,
        config.max_running_per_client,
        config.target_ttft_s,
        config.max_ttft_s,
    )
