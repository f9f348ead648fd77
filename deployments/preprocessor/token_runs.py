"""A tokenizer that reads a run of one media token once: thousands of them stand in a prompt, each as dear as a word.

Special tokens are cut out of a text before anything else is done to it, so that what comes of the text around a run
does not depend on its length. Whether that holds for a tokenizer is tried before it is believed.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding

from deployments.errors import SluiceError
from deployments.preprocessor.hf_processor import Expanded

_TRIALS = ("{0}{0}{0}", "a {0}{0} b", "a\n{0}{0}{0}\n{0}b {0}{0}", " {0} {0}{0}c")


class RunTokenizer:
    """Stands for `tokenizer` in a processor, which calls it for one text at a time; the rest is the tokenizer's own."""

    def __init__(self, tokenizer: Any, tokens: Iterable[str]) -> None:
        """`tokens`: those that may stand in runs."""
        self._tokenizer = tokenizer
        known = {token: tokenizer.convert_tokens_to_ids(token) for token in sorted(tokens, key=len, reverse=True)}
        self._ids = {token: token_id for token, token_id in known.items() if _agrees(tokenizer, token, token_id)}

    def __getattr__(self, name: str) -> Any:
        if name == "_tokenizer" or name.startswith("__"):  # of an instance that is still being copied
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def __call__(self, text: list[str], **options: Any) -> Any:
        told = None
        if self._ids and len(text) == 1:
            told = _by_runs(self._tokenizer, text[0], self._ids, options)
        return self._tokenizer(text, **options) if told is None else told


def read_runs_once(processors: Sequence[Any], tokens: Iterable[str], expand: Callable[[], Expanded]) -> None:
    """Give `processors` such tokenizers of `tokens`, where what `expand` makes with one of them stays what it is: not
    where a processor wants to know more of a text than its tokens. What it makes has to hold a run."""
    own, before = [processor.tokenizer for processor in processors], expand()
    for processor in processors:
        processor.tokenizer = RunTokenizer(processor.tokenizer, tokens)
    try:
        same = before.equals(expand())
    except (SluiceError, ValueError, AttributeError, TypeError, LookupError, RuntimeError):
        same = False
    if not same:
        for processor, tokenizer in zip(processors, own, strict=True):
            processor.tokenizer = tokenizer


def _by_runs(tokenizer: Any, text: str, ids: Mapping[str, int], options: dict[str, Any]) -> BatchEncoding | None:
    """What `tokenizer` makes of `text`, whose runs of `ids` it reads once; None where that can't be told."""
    lengths: dict[int, list[int]] = {token_id: [] for token_id in ids.values()}

    def once(run: re.Match[str]) -> str:
        token = next(token for token in ids if run[0].startswith(token))
        lengths[ids[token]].append(len(run[0]) // len(token))
        return token

    runs = "|".join(f"(?:{re.escape(token)})+" for token in ids)
    told = tokenizer([re.sub(runs, once, text)], **{**options, "return_tensors": None})
    read = np.array(told["input_ids"][0], np.int64)
    times = np.ones(len(read), np.int64)
    for token_id, found in lengths.items():
        places = np.flatnonzero(read == token_id)
        if len(places) != len(found):
            return None
        times[places] = found
    whole = {name: np.repeat(np.array(values[0], np.int64), times) for name, values in told.items()}
    if options.get("return_tensors") == "pt":
        return BatchEncoding({name: torch.from_numpy(values)[None] for name, values in whole.items()})
    return BatchEncoding({name: [values.tolist()] for name, values in whole.items()})


def _agrees(tokenizer: Any, token: str, token_id: int) -> bool:
    texts = [trial.format(token) for trial in _TRIALS]
    return all(_by_runs(tokenizer, text, {token: token_id}, {}) == tokenizer([text]) for text in texts)
