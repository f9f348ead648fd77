"""The ingress as a Ray Serve deployment: joins the stages' handles and Ray's facts to the ASGI application."""

import asyncio
from collections.abc import Mapping
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
from deployments.serving.ray_metrics import ServeMetricSink, metrics_endpoints
from deployments.serving.replica import replica_tracer
from deployments.serving.stage_status import missing_stages
from deployments.stages import Stages
from deployments.types import StageName


@serve.deployment
@serve.ingress()
class Ingress:
    """Answers HTTP. Serve asks for the application once, when the replica starts."""

    def __init__(
        self,
        config: AppConfig,
        fetcher: "DeploymentHandle[Any]",
        decoder: "DeploymentHandle[Any]",
        preprocessor: "DeploymentHandle[Any]",
        model: "DeploymentHandle[Any]",
    ) -> None:
        self._open = AsyncExitStack()  # what is still to be closed: less than everything where this fails
        log_to_stdout()
        generation = Stage(model, StageName.MODEL)
        self._open.callback(generation.close)
        stages = Stages.over(
            Stage(fetcher, StageName.FETCH),
            Stage(decoder, StageName.VIDEO_DECODE),
            Stage(preprocessor, StageName.PREPROCESS),
            generation,
        )
        self._config = config
        self._stages = [handle.deployment_name for handle in (fetcher, decoder, preprocessor, model)]
        metrics = ApplicationMetrics(metrics_endpoints)
        self._open.push_async_callback(metrics.close)
        self.tracer = self._open.enter_context(closing(replica_tracer(config.tracing)))
        self._api = Api(
            config,
            stages,
            put,
            ServeMetricSink(),
            metrics.page,
            self._media_bytes(),
            missing=self._missing,
            tracer=self.tracer,
            set_request_id=False,
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api

    async def drain(self) -> int:
        """Refuse new requests from now on; how many still run. Asked of each replica before the application ends."""
        return self._api.drain()

    async def check_health(self) -> None:
        self._api.pipeline.check_health()
        await asyncio.to_thread(self._api.clients.keys.reload)
        self._api.admission.media.set_max_bytes(await asyncio.to_thread(self._media_bytes))

    async def __del__(self) -> None:
        await self._open.aclose()

    async def _missing(self) -> Mapping[str, str | None]:
        application = serve.get_replica_context().app_name
        try:
            return await asyncio.to_thread(missing_stages, application, self._stages)
        except (RayError, RayServeException) as error:
            raise ConnectionError("Serve's controller does not answer") from error

    def _media_bytes(self) -> int:
        """This replica's share of the bytes that the requests of all ingress replicas may hold."""
        store_bytes = ray.cluster_resources().get("object_store_memory", 0.0)
        return media_share(self._config.ingress, store_bytes, serve.get_replica_context().world_size)
