"""The real application for the HTTP tests: `serve run` with the shipped file, on a cluster of the session."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.support.overlay import merged

SERVE_CONFIG = Path(__file__).parent.parent.parent / "serve_config.yaml"
START_TIMEOUT_S = 240


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of the tests. Serve runs on it from the start: whoever starts Serve decides its port for good."""

    address: str
    http_port: int


@dataclass(frozen=True)
class RunningApp:
    """`serve run`, answering."""

    url: str
    media_root: Path
    """Where `file:` URLs may point."""
    log: Path

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The replica processes of one deployment on this machine."""
        return _titled(f"ray::ServeReplica:sluice:{deployment}")

    def proxies(self) -> list[psutil.Process]:
        """Serve's own, on this machine."""
        return _titled("ray::ProxyActor")


def _titled(title: str) -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.name() == title or title in _title(p)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def run_app(folder: Path, cluster: Cluster, args: dict[str, Any]) -> Iterator[RunningApp]:
    """Run the shipped configuration on the cluster's port, with `args` laid over its own; stops it at the end."""
    config = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    config["http_options"]["port"] = cluster.http_port
    application = config["applications"][0]
    application["args"] = merged(application["args"], args)
    path, log = folder / "serve_config.yaml", folder / "serve.log"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "--address", cluster.address, str(path)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=SERVE_CONFIG.parent)
    try:
        app = RunningApp(f"http://127.0.0.1:{cluster.http_port}", Path(args["media"]["local_root"]), log)
        _wait_until_ready(app, process)
        yield app
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(app: RunningApp, process: "subprocess.Popen[bytes]") -> None:
    give_up = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise RuntimeError(f"`serve run` ended with {process.returncode}:\n{app.log.read_text()[-4000:]}")
        try:
            if httpx.get(f"{app.url}/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise RuntimeError(f"not ready after {START_TIMEOUT_S} s:\n{app.log.read_text()[-4000:]}")


def ray_environment() -> dict[str, str]:
    """What a cluster of the tests is started with: quick metrics, and replicas that import the tests' checkout."""
    root = str(SERVE_CONFIG.parent)
    path = os.environ.get("PYTHONPATH")
    return {
        "RAY_metrics_report_interval_ms": "500",
        "RAY_worker_niceness": "0",  # by default everything else on the machine goes before Ray's workers
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # a busy machine takes longer than Serve's 5 s
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
    }
