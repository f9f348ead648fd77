"""The application's replicas run on the event loop that they were measured with."""

from typing import Any

import ray
from ray.util import list_named_actors

from tests.support.application import RunningApp

STAGES = ("Ingress", "MediaFetcher", "VideoDecoder", "Preprocessor", "Model")


def loop_of(replica: Any) -> str:
    """Of the code of ours in it."""
    return type(replica._replica_impl._user_callable_wrapper.event_loop).__module__


def test_every_stages_replicas_run_on_uvloop(app: RunningApp) -> None:
    names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]
    for stage in STAGES:
        replicas = [name for name in names if name.startswith(f"SERVE_REPLICA::sluice#{stage}#")]
        assert replicas
        loops = [ray.get_actor(name, namespace="serve").__ray_call__.remote(loop_of) for name in replicas]
        assert set(ray.get(loops, timeout=60)) == {"uvloop"}
