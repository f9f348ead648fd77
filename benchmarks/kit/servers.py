"""The servers that are measured: Sluice and the monolith, started here, or any that runs already, by its URL."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import yaml

from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.processes import end
from deployments.served_model import FETCHER, PREPROCESSOR
from tests.support.free_port import free_port
from tests.support.overlay import merged
from tests.support.serve_files import with_models

ROOT = Path(__file__).parent.parent.parent
SERVE_CONFIG = ROOT / "serve_config.yaml"
START_TIMEOUT_S = 600.0
HOSTED = (FETCHER, PREPROCESSOR)
"""Stages without deployments where the placement is `together`."""


@dataclass
class Server:
    """A name for the tables, and where it answers."""

    name: str
    url: str
    pid: int | None = None
    """Root of its processes; None for one that was not started here."""
    model: str | None = None
    """The name under which it serves its model; None: the first one of its list."""
    says_done: bool = True
    """Whether it ends its streams with `[DONE]`."""

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def workload(self, spec: WorkloadSpec) -> WorkloadSpec:
        """`spec` as this server can be asked for it."""
        return spec

    def version(self) -> str:
        """What it says of itself at `/version`, as vLLM and others do; else nothing."""
        with (
            contextlib.suppress(OSError, ValueError, KeyError, TypeError),
            urlopen(f"{self.url}/version", timeout=5) as said,
        ):
            return str(json.loads(said.read())["version"])
        return ""

    def restart(self) -> None:
        """Begin anew, where that is possible: work that abandoned requests left behind is gone."""


class OwnServer(Server):
    """A server that lives as long as the `with` block; its output is in `log`."""

    def __init__(
        self,
        name: str,
        command: Callable[[int, Path], Sequence[str]],
        ready_path: str,
        env: Mapping[str, str],
        root: Path = ROOT,
    ) -> None:
        """`command(port, folder)`: how it is started from the source in `root`. `ready_path`: 200 once it can work."""
        super().__init__(name, "")
        self._command, self._ready_path, self._env, self._root = command, ready_path, dict(env), root
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "OwnServer":
        self._folder = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))  # sockets below it need a short path
        self.log = self._folder / "server.log"
        self._start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self) -> None:
        self._stop()
        self._start()

    def _start(self) -> None:
        port = free_port()
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"PYTHONPATH": str(self._root), "RAY_TMPDIR": str(self._folder), "HF_HUB_OFFLINE": "1"}
        # A busy machine may start slowly.
        env |= {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_raylet_start_wait_time_s": "180"}
        # HAProxy's own, if it is asked for; by default one machine has room for one.
        env |= {f"RAY_SERVE_HAPROXY_{what}_PORT": str(free_port()) for what in ("METRICS", "STATS")} | self._env
        with self.log.open("ab") as log:
            command = self._command(port, self._folder)
            self._process = subprocess.Popen(
                command, cwd=self._root, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.url, self.pid = f"http://127.0.0.1:{port}", self._process.pid
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _stop(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at its start:\n{self.log.read_text()[-4000:]}")
            if _answers(self.url + self._ready_path):
                return
            time.sleep(0.25)
        raise RuntimeError(f"{self.name} was not ready after {START_TIMEOUT_S:.0f} s:\n{self.log.read_text()[-4000:]}")


def sluice(
    model: str | Mapping[str, Mapping[str, Any]] = "demo",
    *,
    name: str = "Sluice",
    config: Path | None = None,
    import_path: str | None = None,
    args: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    root: Path = ROOT,
    launcher: bool = False,
) -> OwnServer:
    """`serve run` with a copy of `config` on a free port. `args`: laid over the file's own `args`.

    `model`: one's id, or the settings of several by their names. `root`: where Sluice's source lies; `config` is its
    `serve_config.yaml` unless given. `import_path`: of another builder than the file's. `launcher`: `sluice serve`
    instead.

    Ray's workers are told to run at the priority of everything else: by themselves they give way (niceness 15) to the
    load generator and to the servers that they are compared with.
    """

    def command(port: int, folder: Path) -> Sequence[str]:
        file = yaml.safe_load((config or root / "serve_config.yaml").read_text(encoding="utf-8"))
        settings = settings_of(file, port, model, args or {})
        application = settings["applications"][0]
        application["import_path"] = import_path or application["import_path"]
        path = folder / "serve_config.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        if launcher:
            return [sys.executable, "-m", "deployments.cli", "serve", "--config", str(path)]
        return [sys.executable, "-m", "ray.serve.scripts", "run", str(path)]

    return OwnServer(name, command, "/ready", {"RAY_worker_niceness": "0", **(env or {})}, root)


def settings_of(
    file: dict[str, Any], port: int, model: str | Mapping[str, Mapping[str, Any]], args: Mapping[str, Any]
) -> dict[str, Any]:
    """A Serve config file's content on this port, with what `sluice` is given; media may come from loopback."""
    changes: dict[str, Any] = {"media": {"allowed_networks": ["127.0.0.0/8"]}}
    if isinstance(model, str):
        changes["model"] = model
    else:
        file = with_models(file, model)
    file["http_options"]["port"] = port
    application = file["applications"][0]
    application["args"] = merged(merged(application["args"], changes), args)
    if application["args"].get("placement") == "together":
        application["deployments"] = [
            entry for entry in application["deployments"] if entry["name"].partition(":")[0] not in HOSTED
        ]
    return file


def monolith(model: str = "demo", dtype: str = "float32") -> OwnServer:
    """`benchmarks.kit.monolith` on a free port."""

    def command(port: int, folder: Path) -> Sequence[str]:
        return [
            sys.executable,
            "-m",
            "benchmarks.kit.monolith",
            "--model",
            model,
            "--dtype",
            dtype,
            "--port",
            str(port),
        ]

    return OwnServer("monolith", command, "/health", {})


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
