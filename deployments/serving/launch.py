"""`sluice serve`: check, start Ray and Serve on this machine, say when it is ready, and at the end drain.

Serve's own `serve run` starts whatever it is given and cuts what runs when it is told to stop. Here a start that can't
work ends with one sentence, and SIGTERM and SIGINT are answered by finishing the answers that have begun.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview, ServeDeploySchema

from deployments.served_model import IDLE, INGRESS, READY, ServedModel, served_models
from deployments.serving import bounded_bodies, haproxy
from deployments.serving.drain import drain
from deployments.serving.ports import is_free
from deployments.serving.serve_file import ServeFile
from deployments.serving.stage_status import application_status, reason
from deployments.serving.worker_output import WorkerOutput
from deployments.startup.settings import WrongSetting

POLL_S = 0.25
ASK_TIMEOUT_S = 10.0
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
_FAILED_ONCE = "failed to start with exception"
"""In Serve's message after a constructor's first failure; Serve would try twice more, and load the model each time."""


class StartFailed(Exception):
    """The server could not be started. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to serve, and how to end."""

    file: ServeFile
    drain_s: float
    """Longest wait for running answers at the end."""
    verbose: bool = False


class Stop:
    """Whether the process has been told to end; told twice, it should hurry."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.hurry = threading.Event()

    def install(self) -> None:
        """After `ray.init`, which installs handlers of its own."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        (self.hurry if self.told.is_set() else self.told).set()


def run(launch: Launch) -> int:
    """Serve until told to stop; the exit status. Raises `WrongSetting` and `StartFailed`, with nothing left running."""
    options = launch.file.tree.get("http_options") or {}
    host, port = str(options.get("host") or "127.0.0.1"), int(options.get("port") or 8000)
    if not is_free(host, port):
        raise WrongSetting(f"http_options.port: somebody listens on {host}:{port} already; choose another with --port")
    stop = Stop()
    with _own_folder() as folder:
        os.environ.update(_environment(folder, launch) | _given())
        with _ray(stop, WorkerOutput(verbose=launch.verbose)) as output:
            url = f"http://{_reached_at(host)}:{port}"
            try:
                _deploy(launch.file)
                facts = _wait_until_ready(launch.file, url, stop)
            except (RayError, RayServeException, TimeoutError) as error:
                raise StartFailed(f"Ray could not start the application: {reason(str(error))}") from error
            if facts is not None:
                output.is_open = True
                print(f"ready: {url}  {facts}; {_keys(launch.file)}", flush=True)
                while not stop.told.wait(1.0):
                    pass
                _end(launch, stop)
    return 0


def _environment(folder: Path, launch: Launch) -> dict[str, str]:
    said = {
        "RAY_worker_niceness": "0",  # by default everything else on the machine goes before Ray's workers
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # by default ten rounds a second, a twentieth of a core for nothing
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",
        **bounded_bodies.variables(launch.file.args.ingress),
    }
    program = haproxy.use_haproxy(os.environ)
    if program is not None:
        said |= haproxy.environment(program, folder, launch.file.args.ingress.request_timeout_s)
    return said


def _given() -> dict[str, str]:
    """What the user has set goes before what is set here."""
    return {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "PYTHON", "SLUICE_"))}


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sluice-", dir="/tmp"))  # sockets below it need a short path
    try:
        yield folder
    finally:
        haproxy.end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ray(stop: Stop, output: WorkerOutput) -> Iterator[WorkerOutput]:
    """A Ray cluster of this machine, as long as the block runs."""
    print("starting Ray and Serve ...", file=sys.stderr, flush=True)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(address="local", namespace="serve", include_dashboard=False, logging_level="ERROR", log_to_driver=True)
    output.install()
    stop.install()
    try:
        yield output
    finally:
        with _silent():
            serve.shutdown()
            ray.shutdown()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing on standard error: Ray's core, while it is taken down, reports each connection that ends."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _deploy(file: ServeFile) -> None:
    """As `serve run FILE` does it."""
    tree = file.tree
    serve.start(
        proxy_location=tree.get("proxy_location"),
        http_options=tree.get("http_options"),
        grpc_options=tree.get("grpc_options"),
        logging_config=tree.get("logging_config"),
        controller_options=tree.get("controller_options"),
    )
    names = ", ".join(model.name for model in served_models(file.args))
    print(f"loading {names} ...", file=sys.stderr, flush=True)
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(tree))


def _wait_until_ready(file: ServeFile, url: str, stop: Stop) -> str | None:
    """What the models say of themselves; None when the process was told to stop meanwhile. Raises `StartFailed`."""
    while not stop.told.wait(POLL_S):
        status = application_status(file.application)
        if status is not None and (failed := failure(status)):
            raise StartFailed(failed)
        if status is not None and str(status.status.value) == "RUNNING" and _is_ready(f"{url}/ready"):
            return ", ".join(_described(model, file.application, status) for model in served_models(file.args))
    return None


def _described(model: ServedModel, application: str, status: ApplicationStatusOverview) -> str:
    """One that is scaled to nothing has nothing to say, and is not started for it."""
    if not status.deployments[model.model].replica_states:
        return f"model {model.name} idle"
    handle = serve.get_deployment_handle(model.model, application)
    return f"model {model.name} {handle.describe.remote().result(timeout_s=ASK_TIMEOUT_S)}"


def failure(status: ApplicationStatusOverview) -> str | None:
    """Why the application will not start, as one sentence; None while it may."""
    for name, deployment in status.deployments.items():
        failed = str(deployment.status.value) in _FAILED or _FAILED_ONCE in deployment.message
        if failed and deployment.message:
            return f"the {name} stage can't start: {reason(deployment.message)}"
    if str(status.status.value) in _FAILED:
        return f"the application can't start: {reason(status.message)}"
    return None


def _is_ready(url: str) -> bool:
    """Whether the ingress, too, knows that no model is starting any more."""
    try:
        with urlopen(url, timeout=5) as response:
            return bool(json.load(response)["status"] in (READY, IDLE))
    except (HTTPError, URLError, TimeoutError, ConnectionError):
        return False


def _reached_at(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def _keys(file: ServeFile) -> str:
    ingress = file.args.ingress
    if ingress.api_keys_file is not None:
        return f"keys: {ingress.api_keys_file}"
    return f"keys: {len(ingress.api_keys) or 'none'}"


def _end(launch: Launch, stop: Stop) -> None:
    began = time.monotonic()
    print("stopping: no new requests; running answers may finish (again to hurry)", file=sys.stderr, flush=True)
    try:
        left = drain(launch.file.application, INGRESS, launch.drain_s, stop.hurry.is_set)
        if left:
            print(f"{left} answers were cut", file=sys.stderr, flush=True)
        else:
            serve.delete(launch.file.application)
    except (RayError, TimeoutError) as error:
        print(f"the ingress does not answer: {type(error).__name__}", file=sys.stderr, flush=True)
    print(f"stopped after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
