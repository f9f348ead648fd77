"""A Ray cluster of two nodes in this machine, Sluice on it, a media host beside it, and the ways to hurt them.

Only processes that were started here are ever touched.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import yaml

from benchmarks.cluster.nodes import start_cluster
from benchmarks.kit.load.media import MediaKind
from benchmarks.kit.processes import PROXY, replicas, titled
from benchmarks.kit.servers import SERVE_CONFIG, OwnServer

STAGES = ("Ingress", "MediaFetcher", "VideoDecoder", "Preprocessor", "Model")
REPLICAS = 2
OUTAGE_S = 5.0
_STORE_BYTES = 400 * 2**20
_FILLER = """
import sys, time
import numpy as np
import ray

ray.init(address=sys.argv[1], namespace="filler", log_to_driver=False, configure_logging=False)
held = [ray.put(np.ones(20 * 2**20, np.uint8)) for _ in range(int(sys.argv[2]))]
time.sleep(float(sys.argv[3]))
"""


class FaultyCluster:
    """Runs while the `with` block lasts. Every fault is a method that returns once the harm is done, or over."""

    def __enter__(self) -> "FaultyCluster":
        self._folder = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))  # sockets below it need a short path
        self._cluster = start_cluster(self._folder, num_cpus=2, object_store_bytes=_STORE_BYTES)
        self._node = self._add_node()
        self._media = _MediaHost(self._folder / "media")
        self._server = OwnServer("Sluice", self._command, "/ready", {})
        self._server.__enter__()
        self._wait_until_whole()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.__exit__(kind, error, trace)
        self._media.kill()
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return self._server.url

    def add_media(self, kind: MediaKind, data: bytes) -> str:
        return self._media.add(data)

    def is_whole(self) -> bool:
        """Every stage has all of its replicas, and says that it is ready."""
        counts = self.state()
        if any(counts[stage] != REPLICAS for stage in STAGES):
            return False
        try:
            with urlopen(f"{self.url}/ready", timeout=5) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def state(self) -> Counter[str]:
        """Replicas by stage."""
        return Counter({stage: len(replicas(os.getpid(), stage)) for stage in STAGES})

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def nothing(self) -> None:
        time.sleep(OUTAGE_S)

    def kill_one_ingress(self) -> None:
        self._kill("Ingress", 1)

    def kill_all_ingresses(self) -> None:
        self._kill("Ingress", REPLICAS)

    def kill_proxy(self) -> None:
        """Serve's own, the only one that listens."""
        _end(titled(os.getpid(), PROXY))

    def kill_one_fetcher(self) -> None:
        self._kill("MediaFetcher", 1)

    def kill_one_decoder(self) -> None:
        self._kill("VideoDecoder", 1)

    def kill_one_preprocessor(self) -> None:
        self._kill("Preprocessor", 1)

    def kill_one_model(self) -> None:
        self._kill("Model", 1)

    def kill_all_decoders(self) -> None:
        self._kill("VideoDecoder", REPLICAS)

    def kill_all_preprocessors(self) -> None:
        self._kill("Preprocessor", REPLICAS)

    def kill_all_models(self) -> None:
        self._kill("Model", REPLICAS)

    def kill_media_host(self) -> None:
        self._media.kill()
        time.sleep(OUTAGE_S)
        self._media.start()

    def stall_media_host(self) -> None:
        self._media.freeze(OUTAGE_S)

    def fill_object_store(self) -> None:
        """Someone else's objects take all of both nodes' stores, and go again."""
        pieces = str(2 * _STORE_BYTES // (20 * 2**20))
        command = [sys.executable, "-c", _FILLER, self._cluster.address, pieces, str(OUTAGE_S)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_node(self) -> None:
        """The node that is not the head, with everything on it; an empty one takes its place."""
        self._cluster.remove_node(self._node, allow_graceful=False)
        self._node = self._add_node()

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _add_node(self) -> Any:
        return self._cluster.add_node(num_cpus=2, object_store_memory=_STORE_BYTES, wait=False)

    def _command(self, port: int, folder: Path) -> list[str]:
        settings = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
        settings["http_options"]["port"] = port
        application = settings["applications"][0]
        application["args"] |= {"media": {"allowed_networks": ["127.0.0.0/8"]}}
        for deployment in application["deployments"]:
            deployment.pop("autoscaling_config", None)
            deployment |= {"num_replicas": REPLICAS, "max_replicas_per_node": 1}
        path = folder / "serve_config.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return [sys.executable, "-m", "ray.serve.scripts", "run", "--address", self._cluster.address, str(path)]

    def _kill(self, stage: str, count: int) -> None:
        _end(replicas(os.getpid(), stage)[:count])

    def _wait_until_whole(self, timeout_s: float = 300.0) -> None:
        give_up = time.monotonic() + timeout_s
        while not self.is_whole():
            if time.monotonic() > give_up:
                raise RuntimeError(
                    f"not all replicas came up: {dict(self.state())}\n{self._server.log.read_text()[-3000:]}"
                )
            time.sleep(0.5)


def _end(chosen: list[psutil.Process]) -> None:
    for process in chosen:
        process.kill()
    psutil.wait_procs(chosen, timeout=10)


class _MediaHost:
    """Files of a folder over HTTP, by a process that can be killed, started again at the same port, and frozen."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._port = folder, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-u", "-m", "http.server", str(self._port), "--bind", "127.0.0.1"]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline().split(" port ")[1].split()[0])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self, seconds: float) -> None:
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def add(self, data: bytes) -> str:
        path = self._folder / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        return f"http://127.0.0.1:{self._port}/{path.name}"
