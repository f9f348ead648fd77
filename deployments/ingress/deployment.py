"""The ingress as a Ray Serve deployment: joins the stages' handles and Ray's facts to the ASGI application."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, closing
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.config import AppConfig
from deployments.ingress.admission.admission import media_share
from deployments.ingress.app import Api
from deployments.ingress.http.access_log import log_to_stdout
from deployments.observability.exposition import ApplicationMetrics
from deployments.serving.client import Stage, put
from deployments.serving.in_process import Hosted, InProcess
from deployments.serving.ray_metrics import ServeMetricSink, metrics_endpoints
from deployments.serving.replica import hide_gpus, replica_tracer
from deployments.serving.stage_status import stage_states
from deployments.stage_calls import StageClient, TensorRef
from deployments.stages import Stages
from deployments.types import StageName, StageStates


@serve.deployment
@serve.ingress()
class Ingress:
    """Answers HTTP. Serve asks for the application once, when the replica starts."""

    def __init__(
        self,
        config: AppConfig,
        fetcher: "DeploymentHandle[Any] | Hosted",
        decoder: "DeploymentHandle[Any]",
        models: Mapping[str, Sequence["DeploymentHandle[Any] | Hosted"]],
    ) -> None:
        """`models`: of each one its preprocessor, its model, and its encoder if it has one, by the name that clients
        use."""
        self._handles: dict[str, DeploymentHandle[Any]] = {}
        """Of the stages that are deployments, by their names."""
        self._hosted: list[InProcess] = []
        """The others."""
        self._open = AsyncExitStack()  # what is still to be closed: less than everything where this fails
        hide_gpus()
        log_to_stdout()
        stages = Stages.over(
            self._client(fetcher, StageName.FETCH),
            self._remote(decoder, StageName.VIDEO_DECODE),
            {
                name: (
                    self._client(first, StageName.PREPROCESS),
                    self._client(own, StageName.MODEL),
                    *(self._client(one, StageName.ENCODE) for one in encoder),
                )
                for name, (first, own, *encoder) in models.items()
            },
        )
        self._config = config
        metrics = ApplicationMetrics(metrics_endpoints)
        self._open.push_async_callback(metrics.close)
        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        self._api = Api(
            config,
            stages,
            TensorRef if isinstance(fetcher, Hosted) else put,  # what its own process fetches needs no copy
            ServeMetricSink(),
            metrics.page,
            self._media_bytes(),
            look=self._look,
            wake=self._wake,
            tracer=self.tracer,
            set_request_id=False,
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api

    def _client(self, stage: "DeploymentHandle[Any] | Hosted", name: StageName) -> StageClient:
        if isinstance(stage, Hosted):
            hosted = stage.start(name)
            self._open.push_async_callback(hosted.close)
            self._hosted.append(hosted)
            return hosted
        return self._remote(stage, name)

    def _remote(self, stage: "DeploymentHandle[Any]", name: StageName) -> Stage:
        self._handles[stage.deployment_name] = stage
        client = Stage(stage, name)
        self._open.callback(client.close)
        return client

    async def drain(self) -> int:
        """Refuse new requests from now on; how many still run. Asked of each replica before the application ends."""
        return self._api.drain()

    async def check_health(self) -> None:
        self._api.loader.check_health()
        for stage in self._hosted:
            await stage.check_health()
        await asyncio.to_thread(self._api.clients.keys.reload)
        self._api.admission.media.set_max_bytes(await asyncio.to_thread(self._media_bytes))

    async def __del__(self) -> None:
        await self._open.aclose()

    async def _look(self) -> StageStates:
        application = serve.get_replica_context().app_name
        try:
            return await asyncio.to_thread(stage_states, application, self._handles)
        except (RayError, RayServeException) as error:
            raise ConnectionError("Serve's controller does not answer") from error

    async def _wake(self, stage: str) -> None:
        """A call that waits is what Serve starts a replica for."""
        call = self._handles[stage].check_health.remote()
        try:
            await call
        except (RayError, RayServeException) as error:
            raise ConnectionError(f"{stage} does not start") from error
        except asyncio.CancelledError:
            call.cancel()
            raise

    def _media_bytes(self) -> int:
        """This replica's share of the bytes that the requests of all ingress replicas may hold."""
        store_bytes = ray.cluster_resources().get("object_store_memory", 0.0)
        return media_share(self._config.ingress, store_bytes, serve.get_replica_context().world_size)
