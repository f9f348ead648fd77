"""What Ray's processes print, as whoever started a server wants to see it.

Requests' lines of JSON go to the standard output as they are, so that a log collector can read them; warnings and
errors go to standard error, with the name of the process; Ray's own INFO and progress bars are left out. Before the
server is ready nothing is shown: if the start fails, one sentence says why.
"""

import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from ray._private import worker as ray_worker
from ray._private.ray_logging import global_worker_stdstream_dispatcher

_NOISE = re.compile(r"^\s*$|INFO |\| *\d+/\d+ \[|FutureWarning|^ +warnings\.warn|^:(actor|task|job)_")


class WorkerOutput:
    """Takes the place of Ray's own printer (Ray's developer API; the version is pinned)."""

    def __init__(self, *, verbose: bool, out: TextIO = sys.stdout, err: TextIO = sys.stderr) -> None:
        self._out, self._err = out, err
        self._verbose = verbose
        self.is_open = verbose

    def install(self) -> None:
        """After `ray.init(log_to_driver=True)`."""
        global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")
        ray_worker._worker_logs_enabled = self._verbose  # what the raylet says of processes that ended
        global_worker_stdstream_dispatcher.add_handler("sluice", self)

    def __call__(self, batch: Mapping[str, Any]) -> None:
        """`batch`: lines of one process, as Ray hands them out."""
        if not self.is_open or (batch.get("pid") == "autoscaler" and not self._verbose):
            return
        who = str(batch.get("actor_name") or batch.get("task_name") or "ray").removeprefix("ServeReplica:")
        for line in batch["lines"]:
            if line.startswith("{") and not batch["is_err"]:
                print(line, file=self._out, flush=True)
            elif self._verbose or not _NOISE.search(line):
                print(f"[{who}] {line}", file=self._err, flush=True)
