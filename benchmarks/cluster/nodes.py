"""A Ray cluster of several nodes on one machine, for what a single node can't show."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.kit.servers import ROOT

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster


def start_cluster(folder: Path, num_cpus: int, object_store_bytes: int) -> "Cluster":
    """A cluster with a head of so many CPUs, whose sockets and logs lie below `folder`: a short path, or sockets fail.

    Sets Ray's environment variables in this process; the caller shuts the cluster down.
    """
    os.environ |= {
        "RAY_TMPDIR": str(folder),
        "RAY_worker_niceness": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
    from ray.cluster_utils import Cluster  # reads the environment

    head = {"num_cpus": num_cpus, "object_store_memory": object_store_bytes, "include_dashboard": False}
    return Cluster(initialize_head=True, head_node_args=head)
