"""Choosing the next token of every row at once, each by its own request's settings.

A choice depends on its row's logits, its request's settings, its seed and its place in the answer alone: what else is
in the batch changes nothing. One copy to the host a step, whatever the number of rows.

Shape legend: R rows, V vocabulary, K most likely tokens.
"""

import torch

from deployments.model.sampling.candidates import Drawn, DrawSettings, draw, draw_from_all
from deployments.model.sampling.recorded_draws import RecordedDraws
from deployments.model.sampling.under_way import Choosing, Chosen, Outcomes, ReadBack, Sampled, UnderWay, read_back
from deployments.model.sequence import Choice, Sequence, Token
from deployments.types import SamplingParams

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1
_LEAST_TEMPERATURE = 1e-4
"""Below it only the most likely token has a chance anyway, and logits divided by it would not be numbers."""


class Sampler:
    """Stateless but for counts of generated tokens, which it keeps on the choices that need them."""

    def __init__(
        self, device: torch.device, recorded: RecordedDraws | None = None, read_later: ReadBack | None = None
    ) -> None:
        """`recorded`: draws for rows that ask for nothing else, where they were recorded. `read_later`: how the host
        gets to know tokens that it does not wait for; None where it always waits."""
        self._device = device
        self._recorded = recorded
        self._read_later = read_later

    def begin(self, logits_RV: torch.Tensor, rows: list[tuple[Sequence, Choice]]) -> Choosing:
        """As `sample`, without a wait for the device where nothing but the logits decides."""
        if self._read_later is None:
            return Chosen(self.sample(logits_RV, rows))
        params = [sequence.request.params for sequence, _ in rows]
        if not all(map(_plain, params, rows)):
            return Chosen(self.sample(logits_RV, rows))
        if not any(p.temperature > 0 for p in params):
            broken_R = logits_RV.sum(-1).isnan()
            drawn = Drawn(logits_RV.argmax(-1), torch.zeros_like(broken_R), broken_R)
            return UnderWay.of(drawn, logits_RV, None, self._read_later)
        if self._recorded is not None and len(rows) <= self._recorded.max_rows:
            return self._replayed(self._recorded, logits_RV, rows, self._read_later)
        return Chosen(self.sample(logits_RV, rows))

    @torch.inference_mode()
    def sample(self, logits_RV: torch.Tensor, rows: list[tuple[Sequence, Choice]]) -> Outcomes:
        """One token for each row; `logits_RV` is float32 and is not kept."""
        params = [sequence.request.params for sequence, _ in rows]
        raw_RV = logits_RV
        recorded = self._recorded
        drawing = [i for i, p in enumerate(params) if p.temperature > 0]
        if drawing and recorded is not None and len(rows) <= recorded.max_rows and all(map(_plain, params, rows)):
            return self._replayed(recorded, logits_RV, rows, read_back).collect()
        if any(_shapes_logits(p, sequence, choice) for p, (sequence, choice) in zip(params, rows, strict=True)):
            logits_RV = self._shaped(logits_RV.clone(), rows)
        greedy_R = logits_RV.argmax(-1)
        if drawing:
            index = torch.tensor(drawing, device=self._device)
            greedy_R[index] = self._drawn(logits_RV[index], [rows[i] for i in drawing])
        broken_R = raw_RV.sum(-1).isnan()
        wanted = max((p.logprobs for p in params if p.logprobs is not None), default=None)
        if wanted is None:
            tokens, broken = torch.stack([greedy_R, broken_R.long()]).tolist()
            return [Sampled(None if bad else Token(token)) for token, bad in zip(tokens, broken, strict=True)]
        return self._with_logprobs(raw_RV, greedy_R, broken_R, params, wanted)

    def _shaped(self, logits_RV: torch.Tensor, rows: list[tuple[Sequence, Choice]]) -> torch.Tensor:
        """Penalties, biases and bans, row by row: few requests use them."""
        for logits_V, (sequence, choice) in zip(logits_RV, rows, strict=True):
            params = sequence.request.params
            if _has_penalty(params):
                self._penalise(logits_V, sequence, choice)
            for token_id, bias in params.logit_bias:
                logits_V[token_id] += bias
            if choice.constraint is not None:
                allowed_V = torch.zeros(logits_V.shape[0], dtype=torch.bool)
                choice.constraint.allow(allowed_V)
                logits_V.masked_fill_(~allowed_V.to(self._device), -torch.inf)
            if choice.num_tokens < params.min_tokens and sequence.request.stop_ids:
                self._ban_end(logits_V, list(sequence.request.stop_ids))
        return logits_RV

    @staticmethod
    def _ban_end(logits_V: torch.Tensor, stop_ids: list[int]) -> None:
        """`min_tokens` is not reached; but where a grammar leaves nothing else, the answer is complete."""
        longer_V = logits_V.index_fill(0, torch.tensor(stop_ids, device=logits_V.device), -torch.inf)
        logits_V.copy_(torch.where((longer_V > -torch.inf).any(), longer_V, logits_V))

    def _penalise(self, logits_V: torch.Tensor, sequence: Sequence, choice: Choice) -> None:
        params = sequence.request.params
        counts_V = choice.counts_V
        if counts_V is None:
            ids = torch.tensor(choice.token_ids, dtype=torch.int64, device=self._device)
            counts_V = choice.counts_V = torch.bincount(ids, minlength=len(logits_V)).int()
        elif choice.token_ids:
            counts_V[choice.token_ids[-1]] += 1
        if params.repetition_penalty != 1.0:
            seen_V = counts_V > 0
            seen_V[sequence.prompt_T] = True
            factor = params.repetition_penalty
            logits_V.copy_(
                torch.where(seen_V, torch.where(logits_V > 0, logits_V / factor, logits_V * factor), logits_V)
            )
        logits_V -= params.frequency_penalty * counts_V + params.presence_penalty * (counts_V > 0)

    def _drawn(self, logits_RV: torch.Tensor, rows: list[tuple[Sequence, Choice]]) -> torch.Tensor:
        """A token for each row by inverse transform: the first whose cumulated probability passes a uniform number."""
        settings = DrawSettings.of(_columns(logits_RV.shape[-1], rows, _LEAST_TEMPERATURE).to(self._device))
        drawn = draw(logits_RV, settings)
        if any(_limited(sequence.request.params) for sequence, _ in rows):
            wide = drawn.wide_R.nonzero()[:, 0]
            if len(wide):
                drawn.tokens_R[wide] = draw_from_all(logits_RV[wide], settings.rows(wide))
        return drawn.tokens_R

    @staticmethod
    def _replayed(
        recorded: RecordedDraws, logits_RV: torch.Tensor, rows: list[tuple[Sequence, Choice]], read: ReadBack
    ) -> UnderWay:
        """Of rows that only draw."""
        columns_R5 = _columns(logits_RV.shape[-1], rows, 0.0)
        return UnderWay.of(recorded.draw(logits_RV, columns_R5), logits_RV, columns_R5, read)

    @staticmethod
    def _with_logprobs(
        raw_RV: torch.Tensor,
        tokens_R: torch.Tensor,
        broken_R: torch.Tensor,
        params: list[SamplingParams],
        wanted: int,
    ) -> Outcomes:
        logprobs_RV = raw_RV.log_softmax(-1)
        chosen_R1 = logprobs_RV.gather(-1, tokens_R[:, None])
        top_RK, ids_RK = logprobs_RV.topk(wanted, dim=-1)
        # Token ids are exact in float64, so that one copy brings everything.
        packed = [tokens_R[:, None].double(), broken_R[:, None].double(), chosen_R1.double(), ids_RK.double()]
        sampled: Outcomes = []
        for p, row in zip(params, torch.cat([*packed, top_RK.double()], dim=-1).tolist(), strict=True):
            token_id, broken, logprob = int(row[0]), bool(row[1]), row[2]
            ids, values = row[3 : 3 + wanted], row[3 + wanted :]
            if broken:
                sampled.append(Sampled(None))
            elif p.logprobs is None:
                sampled.append(Sampled(Token(token_id)))
            else:
                top = tuple((int(i), v) for i, v in zip(ids[: p.logprobs], values, strict=False))
                sampled.append(Sampled(Token(token_id, logprob, top)))
        return sampled


def _columns(vocabulary: int, rows: list[tuple[Sequence, Choice]], greedy: float) -> torch.Tensor:
    """float64 [R, 5], on the host: as `DrawSettings` takes them; temperatures too small to matter become `greedy`."""
    columns = []
    for sequence, choice in rows:
        p = sequence.request.params
        temperature = p.temperature if p.temperature >= _LEAST_TEMPERATURE else greedy
        uniform = _uniform(choice.seed, choice.num_tokens)
        columns.append((temperature, p.top_p, p.top_k or vocabulary, p.min_p, uniform))
    return torch.tensor(columns, dtype=torch.float64)


def _plain(params: SamplingParams, row: tuple[Sequence, Choice]) -> bool:
    """Whether a row only draws: nothing shapes its logits, nobody wants to know them."""
    return params.logprobs is None and not _shapes_logits(params, *row)


def _limited(params: SamplingParams) -> bool:
    return params.top_p < 1 or params.top_k > 0 or params.min_p > 0


def _has_penalty(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def _shapes_logits(params: SamplingParams, sequence: Sequence, choice: Choice) -> bool:
    return bool(
        _has_penalty(params)
        or params.logit_bias
        or choice.constraint is not None
        or (choice.num_tokens < params.min_tokens and sequence.request.stop_ids)
    )


def _uniform(seed: int, place: int) -> float:
    """A number in [0, 1) which depends on a seed and a place in the answer alone (SplitMix64's finaliser, twice)."""
    return _mixed((_mixed(seed & _MASK64) + (place + 1) * _GOLDEN) & _MASK64) / 2.0**64


def _mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)
