"""Sluice with a video decoder and a model that wait instead of working: a machine's few cores then show what many do.

`build` is named as `import_path` in a config file. Everything else is the real application: ingress, fetching,
preprocessing, hand-offs, batching. Only the time that the two stages take is set, by sleeping.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.config import AppConfig
from deployments.decoder.deployment import VideoDecoder
from deployments.fetcher.deployment import MediaFetcher
from deployments.ingress.deployment import Ingress
from deployments.model.deployment import Model
from deployments.preprocessor.deployment import Preprocessor
from deployments.served_model import ServedModel, served_models
from deployments.serving.content_router import found_again
from deployments.serving.replica import stage_method
from deployments.stage_calls import TensorRef
from deployments.types import StageName, VideoTask


class PacedConfig(AppConfig):
    """The application's settings and the two paces."""

    decode_pace_s: float
    """One video, on one of a replica's `decoder.workers`."""
    step_pace_s: float
    """One step of the engine: a token for each running answer."""


@serve.deployment(name="VideoDecoder")
class PacedDecoder(VideoDecoder.func_or_class):  # type: ignore[name-defined,misc]
    """Decodes, and then waits until the pace is over; as many at once as it has workers."""

    def __init__(self, config: PacedConfig, fetcher: "DeploymentHandle[Any]") -> None:
        super().__init__(config, fetcher)
        self._pace_s = config.decode_pace_s
        self._places = asyncio.Semaphore(config.decoder.workers)

    @stage_method
    async def decode(
        self, remaining_s: float, task: VideoTask, file: tuple[TensorRef], data: NDArray[np.uint8]
    ) -> AsyncGenerator[Any, None]:
        async with self._places:
            began = time.monotonic()
            read = await self._stage.decode(remaining_s, task, data)
            await asyncio.sleep(max(0.0, self._pace_s - (time.monotonic() - began)))
        yield replace(read.meta, decode_s=max(self._pace_s, read.meta.decode_s))
        yield read.payload


@serve.deployment(name="Model")
class PacedModel(Model.func_or_class):  # type: ignore[name-defined,misc]
    """Answers by the real engine, on an accelerator whose every step takes the pace."""

    def __init__(self, config: PacedConfig) -> None:
        super().__init__(config)
        engine = self._stage.engine
        work = engine.step

        def step() -> None:
            began = time.monotonic()
            work()
            time.sleep(max(0.0, config.step_pace_s - (time.monotonic() - began)))

        engine.step = step


def build(args: PacedConfig) -> Application:
    """As `graph.build`."""
    fetcher = found_again(MediaFetcher, StageName.FETCH, args).bind(args)
    return Ingress.bind(
        args,
        fetcher=fetcher,
        decoder=found_again(PacedDecoder, StageName.VIDEO_DECODE, args).bind(args, fetcher=fetcher),
        models={model.name: _own_stages(model) for model in served_models(args)},
    )


def _own_stages(model: ServedModel) -> tuple[Application, Application]:
    paced = found_again(PacedModel, StageName.MODEL, model.config)
    return (
        Preprocessor.options(name=model.preprocessor).bind(model.config),  # type: ignore[attr-defined]
        paced.options(name=model.model).bind(model.config),
    )
