"""Batches joined to the application: the routes, and the work in the background, or neither."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.routing import Route
from starlette.types import ASGIApp

from deployments.config import IngressConfig
from deployments.ingress.admission.admission import Admission
from deployments.ingress.batches.api import BatchApi, NoBatchApi
from deployments.ingress.batches.concurrency import BatchConcurrency
from deployments.ingress.batches.files import FileStore
from deployments.ingress.batches.folder import Folder
from deployments.ingress.batches.run import Means
from deployments.ingress.batches.runner import BatchRunner
from deployments.ingress.batches.state import BatchStore
from deployments.ingress.http.clients import Clients
from deployments.ingress.http.readiness import Readiness
from deployments.observability.metrics import MetricSink


@dataclass(frozen=True, slots=True)
class Batches:
    routes: Sequence[Route]
    run: Callable[[], Coroutine[Any, Any, None]]
    """Until it is cancelled."""

    @classmethod
    def over(
        cls,
        app: ASGIApp,
        config: IngressConfig,
        clients: Clients,
        admission: Admission,
        readiness: Readiness,
        metrics: MetricSink,
    ) -> "Batches":
        """`app`: what answers the lines. Raises `OSError` when the folder can't be used."""
        if config.batch_folder is None:
            return cls(NoBatchApi().routes(), _nothing)
        folder = Folder(config.batch_folder)
        limits = config.max_batch_file_bytes, config.max_batch_folder_bytes, config.max_batch_files
        files = FileStore(folder, *limits, config.max_batch_file_age_s)
        batches = BatchStore(folder)
        means = Means(app, files, config, BatchConcurrency(config.max_batch_running), readiness, metrics)
        routes = BatchApi(config, files, batches, clients, admission.bodies).routes()
        return cls(routes, BatchRunner(batches, means).run)


async def _nothing() -> None:
    return
