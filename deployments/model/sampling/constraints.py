"""What else than a grammar may bind an answer's tokens; each wraps the one that binds what it leaves free.

Shape legend: V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch

from deployments.model.sequence import TokenConstraint
from deployments.model.thoughts import Thoughts
from deployments.types import Thinking

NewConstraint = Callable[[], TokenConstraint]


class Free:
    """Binds nothing."""

    def allow(self, mask_V: torch.Tensor) -> None:
        mask_V.fill_(True)

    def accept(self, token_id: int) -> None:
        pass


class AfterThoughts:
    """Thoughts are free but for how long they may be; what follows them keeps to `inner`."""

    def __init__(self, thinking: Thinking, max_tokens: int | None, inner: TokenConstraint) -> None:
        self._thinking = thinking
        self._max_tokens = max_tokens
        self._inner = inner
        self._thoughts = Thoughts(thinking)

    def allow(self, mask_V: torch.Tensor) -> None:
        if not self._thoughts.inside:
            self._inner.allow(mask_V)
            if self._thoughts.may_begin:
                mask_V[self._thinking.begin_ids[0]] = True
        elif self._max_tokens is not None and self._thoughts.num_tokens >= self._max_tokens:
            mask_V.fill_(False)
            mask_V[self._thinking.end_ids[self._thoughts.end_begun]] = True
        else:
            mask_V.fill_(True)

    def accept(self, token_id: int) -> None:
        if not self._thoughts.accept(token_id):
            self._inner.accept(token_id)


class WithoutWords:
    """Sequences of tokens that are never completed."""

    def __init__(self, words: Sequence[Sequence[int]], inner: TokenConstraint) -> None:
        self._words = [tuple(word) for word in words]
        self._tokens: list[int] = []
        self._inner = inner

    def allow(self, mask_V: torch.Tensor) -> None:
        self._inner.allow(mask_V)
        for *before, last in self._words:
            if not before or self._tokens[-len(before) :] == before:
                mask_V[last] = False

    def accept(self, token_id: int) -> None:
        self._tokens.append(token_id)
        self._inner.accept(token_id)


class Given:
    """An answer whose first tokens are known: a prompt whose own log-probabilities are asked for."""

    def __init__(self, token_ids: Sequence[int], inner: TokenConstraint) -> None:
        self._token_ids = token_ids
        self._place = 0
        self._inner = inner

    def allow(self, mask_V: torch.Tensor) -> None:
        if self._place < len(self._token_ids):
            mask_V.fill_(False)
            mask_V[self._token_ids[self._place]] = True
        else:
            self._inner.allow(mask_V)

    def accept(self, token_id: int) -> None:
        self._place += 1
        if self._place > len(self._token_ids):
            self._inner.accept(token_id)
