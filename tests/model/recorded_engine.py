"""An engine as it runs on a card, on a CPU: a tape stands for the graphs, a late reader for the copies to the host."""

import torch

from deployments.model.engine.engine import Engine
from deployments.model.engine.step_budget import StepBudget
from deployments.model.families.family import Family
from deployments.model.forward.attention import KernelAttention, PiecewiseAttention
from deployments.model.forward.runner import ModelRunner
from deployments.model.forward.tower_runner import TowerRunner
from deployments.model.loading import allocate_cache
from deployments.model.multimodal.digests import Digests
from deployments.model.multimodal.request_media import MediaMemory
from deployments.model.multimodal.uploads import Uploads
from deployments.model.sampling.recorded_draws import RecordedDraws
from deployments.model.sampling.sampler import Sampler
from deployments.observability.metrics import RecordingSink
from tests.model.conftest import SteppedEngine, engine_config
from tests.support.tape import TapeRecorder

CPU = torch.device("cpu")


class EitherAttention:
    """A card's where a batch has page tables, a CPU's elsewhere. Stores are a CPU's: heads first."""

    def __init__(self, page_size):
        self._recorded, self._launched = KernelAttention(page_size), PiecewiseAttention()

    def attend(self, query_HND, keys, values, batch, look):
        if batch.tables_RP is None:
            return self._launched.attend(query_HND, keys, values, batch, look)
        return self._recorded.attend(query_HND, keys.transpose(0, 1), values.transpose(0, 1), batch, look)


def make_runner(model, **config):
    family, uploads = Family(model), Uploads(CPU)
    cache = allocate_cache(family, engine_config(**{"max_context_tokens": 64, **config}))
    encoder = TowerRunner(family, uploads, None, Digests())
    return ModelRunner(family, cache, encoder, uploads, EitherAttention(cache.page_size))


class LateReader:
    """Tokens that are on their way until they are waited for."""

    def __init__(self):
        self.most_under_way = self.under_way = 0

    def __call__(self, tensor):
        told = tensor.clone()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

        def values():
            self.under_way -= 1
            return told.tolist()

        return values


class RecordedEngine(SteppedEngine):
    """Steps that only decode, and draws, are replayed; with a `reader` the engine is a step ahead of what it knows."""

    def __init__(self, model, *, largest=None, reader=None, sampler=Sampler, **config):
        """`largest`: rows of a step that is recorded; 0: none is."""
        settings = engine_config(**config)
        runner = make_runner(model, **config)
        self.sink, self.steps, self.draws = RecordingSink(), TapeRecorder(), TapeRecorder()
        if largest != 0:
            runner.record_graphs(largest or settings.max_running, self.steps)
        drawing = RecordedDraws(runner.family.vocab_size, settings.max_running, CPU, self.draws)
        self.engine = Engine(
            runner,
            MediaMemory(2**28),
            self.sink,
            budget=StepBudget(settings.prefill_chunk_tokens, settings.target_itl_s),
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            target_backlog_s=1.0,
            target_kv_usage=0.8,
            sampler=sampler(CPU, drawing, reader),
        )
