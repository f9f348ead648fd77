"""The stage as others call it: a real replica, called through the seam to Ray."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, MediaNotReachable, StageTimeout
from deployments.fetcher.deployment import MediaFetcher
from deployments.serving.client import Stage, put
from deployments.types import Fetched, MediaItem, MediaKind
from tests.support import media_server as host
from tests.support.application import Cluster
from tests.support.media_files import make_picture

PICTURE = make_picture()


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Root:
    def __init__(self, fetcher: "DeploymentHandle[Any]") -> None:
        pass


@pytest.fixture(scope="module")
def fetcher(ray_cluster: Cluster) -> Iterator[Stage]:
    config = AppConfig.model_validate({"media": {"allowed_networks": ["127.0.0.1/32"]}})
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0}, "health_check_period_s": 1}
    serve.run(Root.bind(MediaFetcher.options(**options).bind(config)), name="fetching", route_prefix=None)
    yield Stage(serve.get_deployment_handle("MediaFetcher", "fetching"), "fetch")
    serve.delete("fetching")


def image(url):
    return MediaItem(MediaKind.IMAGE, "messages[0].content[1]", url)


async def test_metadata_come_by_value_and_bytes_by_reference(fetcher, server):
    body = PICTURE + bytes(3_000_000)
    result = await fetcher.call("fetch", Deadline(60, "request"), image(server.add("/a", body)))
    assert isinstance(result.meta, Fetched)
    assert (result.meta.container, result.meta.size_bytes) == ("jpeg", len(body))
    data = ray.get(result.payload)
    assert data.tobytes() == body
    assert (data.dtype, data.flags.writeable, data.flags.owndata) == (np.uint8, False, False)


async def test_a_data_url_travels_beside_the_item(fetcher):
    text = np.frombuffer(b"data:image/jpeg;base64," + base64.b64encode(PICTURE), np.uint8)
    result = await fetcher.call("fetch", Deadline(60, "request"), image(None), payloads=[put(text)])
    assert ray.get(result.payload).tobytes() == PICTURE


async def test_errors_keep_their_class_and_name_the_item(fetcher, server):
    for path, behaviour, expected in (
        ("/text", host.serve(b"hello"), BadMedia),
        ("/missing", host.status(404), MediaNotReachable),
    ):
        with pytest.raises(expected, match=r"^messages\[0\]\.content\[1\] ") as failed:
            await fetcher.call("fetch", Deadline(60, "request"), image(server.add(path, behaviour)))
        assert failed.value.param == "messages[0].content[1]"


async def test_a_stalled_host_ends_with_the_requests_time(fetcher, server):
    with pytest.raises(StageTimeout) as late:
        await fetcher.call("fetch", Deadline(1.0, "request"), image(server.add("/stalled", host.stalled())))
    assert late.value.stage == "fetch"
