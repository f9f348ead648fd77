"""`sluice serve` as its users start it: a process of its own, with a Ray of its own."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.application import SERVE_CONFIG
from tests.support.free_port import free_port

START_TIMEOUT_S = 240
COMMAND = [sys.executable, "-m", "deployments.cli", "serve"]


@dataclass
class Running:
    process: "subprocess.Popen[str]"
    url: str
    ready: str
    """The line that it says when it is."""


def environment(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**own, "PYTHONPATH": str(SERVE_CONFIG.parent), "HF_HUB_OFFLINE": "1", **more}


@contextmanager
def launched(folder: Path, arguments: Sequence[str] = (), **variables: str) -> Iterator[Running]:
    """Serving as long as the block lasts. `folder`: where it is started; what it says of its troubles goes there."""
    port = free_port()
    command, env = [*COMMAND, "--port", str(port), *arguments], environment(**variables)
    with (folder / "err").open("w") as errors:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True)
        killer = threading.Timer(START_TIMEOUT_S, process.kill)
        killer.start()
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            assert ready, (folder / "err").read_text()
            yield Running(process, f"http://127.0.0.1:{port}", ready)
        finally:
            killer.cancel()
            process.terminate()
            process.wait(60)
