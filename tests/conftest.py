"""Fixtures shared by all rooms' tests: one Ray cluster and one real application a session, a media host on loopback."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import ray
import yaml
from ray import serve

from tests.support.application import SERVE_CONFIG, Cluster, RunningApp, ray_environment, run_app
from tests.support.free_port import free_port
from tests.support.media_server import MediaServer

OBJECT_STORE_BYTES = 1024 * 2**20

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """What is there by now stays for good: no collection walks over it again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries report what is still there at the end as leaks


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the models of tests/model run: cpu (as it is) or cuda")
    parser.addoption("--all-families", action="store_true", help="divide models of all families, not of a few")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A Ray cluster of this session, whose driver this process is, with Serve as the shipped file starts it."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets' paths must be short
    os.environ.update(ray_environment())
    context = ray.init(
        num_cpus=2,
        namespace="serve",
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
    )
    shipped = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    cluster = Cluster(context.address_info["gcs_address"], free_port())
    serve.start(
        proxy_location=shipped["proxy_location"],
        http_options={**shipped["http_options"], "port": cluster.http_port},
        controller_options=shipped["controller_options"],
    )
    yield cluster
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def app(ray_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """The application as `serve run serve_config.yaml` brings it up, allowed to fetch from loopback."""
    folder = tmp_path_factory.mktemp("app")
    media_root: Path = tmp_path_factory.mktemp("media")
    args = {
        "media": {
            "allowed_networks": ["127.0.0.0/8"],
            "local_root": str(media_root),
            "sparse_from_bytes": 100_000,
            "connect_timeout_s": 60,  # the media host shares this process with tests that keep it busy
            "read_timeout_s": 60,
        },
        "ingress": {
            "max_wait_s": 120,
            "batch_folder": str(folder / "batches"),
        },  # a busy machine of many tests is slow, and refuses nobody for it
    }
    with run_app(folder, ray_cluster, args) as running:
        yield running


@pytest.fixture(scope="session")
def media_server() -> Iterator[MediaServer]:
    """A media host on loopback for tests that only need URLs; give each test's paths names of their own."""
    with MediaServer() as server:
        yield server
