"""Calls go to the replica that has seen their content: a request router of Ray Serve over `rendezvous`.

It runs where the calls are made, one for each deployment called, and asks nobody. A call's key travels as Ray's
`session_id`. What is known of a replica's load is what Ray tells its routers: the requests that this caller has sent,
and what the replica said of all its requests when it took the last one.

A replica that leaves (scaled down, replaced, dead) is not among the candidates any more while it finishes its work: no
call reaches it, and its keys go to the next in their order. One whose node drains is still among Ray's candidates, and
gets no call either as long as there is another (`draining_nodes`).
"""

from typing import Any

from ray import serve
from ray.serve._private.common import RequestMetadata
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from deployments.config import AppConfig
from deployments.serving.draining_nodes import DrainingNodes, nodes_that_drain
from deployments.serving.ray_metrics import ServeMetricSink
from deployments.serving.rendezvous import in_turn, preferred, ranked, take_more
from deployments.types import StageName

MODEL_PLACES = 4
"""Answers that decode together cost each other little; prompts that are prefilled together wait for each other."""

ENCODER_PLACES = 4
"""Media that are encoded together; as many wait for each other."""


def found_again(deployment: Any, stage: StageName, config: AppConfig) -> Any:
    """`deployment`, whose calls go to its replicas by their keys; as Ray does it where `routing.by_content` is off."""
    if not config.routing.by_content:
        return deployment
    places = {
        StageName.FETCH: config.media.workers,
        StageName.VIDEO_DECODE: config.decoder.workers,
        StageName.ENCODE: ENCODER_PLACES,
        StageName.MODEL: MODEL_PLACES,
    }[stage]
    settings = {"stage": stage.value, "load_factor": config.routing.load_factor, "places": places}
    router = RequestRouterConfig(request_router_class=ContentRouter, request_router_kwargs=settings)
    return deployment.options(request_router_config=router)


class ContentRouter(RequestRouter):  # type: ignore[misc]
    """One for each deployment that a process calls; lives on the event loop of its calls."""

    def initialize_state(self, stage: str, load_factor: float, places: int) -> None:
        """Called by Ray with `request_router_kwargs`; see `rendezvous.take_more`."""
        self._stage, self._load_factor, self._places = stage, load_factor, places
        self._calls: dict[int, PendingRequest] = {}
        self._turn = 0
        self._own = _own_replica()
        self._metrics = ServeMetricSink()
        self._draining = DrainingNodes(nodes_that_drain)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Replicas in the order in which they are asked; of those in one list the least busy one takes the call."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # or a full stage is asked without a pause
        key, staying = pending_request.metadata.session_id, self._draining.staying(candidate_replicas)
        if not key:
            return [[replica] for replica in self._in_turn(staying)]
        by_name = {replica.replica_id.unique_id: replica for replica in staying}
        order = [by_name[name] for name in ranked(key, by_name)]
        loads = [self.replica_queue_len_cache.get(replica.replica_id) for replica in order]
        verdicts = take_more(loads, self._load_factor, self._places)
        ready = [[replica] for replica, may in zip(order, verdicts, strict=True) if may]
        return [*ready, [replica for replica, may in zip(order, verdicts, strict=True) if not may]]

    def _in_turn(self, candidates: list[RunningReplica]) -> list[RunningReplica]:
        """For calls that any replica may take, such as parts of a video: they go apart, and to this process last."""
        self._turn += 1
        names = [replica.replica_id for replica in candidates]
        loads = [(self.replica_queue_len_cache.get(name) or 0) + (name == self._own) for name in names]
        return [candidates[number] for number in in_turn(loads, self._turn)]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Called by Ray when a replica has taken a call."""
        key = pending_request.metadata.session_id
        if key:
            present = {replica_id, *self.curr_replicas}  # it may have died since
            first = preferred(key, (replica.unique_id for replica in present))
            outcome = "preferred" if replica_id.unique_id == first else "other"
            self._metrics.count("sluice_routed", stage=self._stage, outcome=outcome)

    # Ray finds the call that a replica was found for by its request's id: of two calls of one request that wait at the
    # same time, one would never be sent, and the search would go on without a pause. Here each call stands for itself.

    def _add_pending_request_to_indices(self, pending_request: PendingRequest) -> None:
        self._calls[id(pending_request.metadata)] = pending_request

    def _remove_pending_request_from_indices(self, pending_request: PendingRequest) -> None:
        self._calls.pop(id(pending_request.metadata), None)

    def _get_pending_request_matching_internal_request_id(
        self, request_metadata: RequestMetadata | None = None
    ) -> PendingRequest | None:
        call = self._calls.get(id(request_metadata))
        return None if call is None or call.future.done() else call


def _own_replica() -> ReplicaID | None:
    """The replica that this process is, None where it is none."""
    try:
        return serve.get_replica_context().replica_id
    except RayServeException:
        return None
