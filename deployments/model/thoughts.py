"""Where a model's thoughts begin and end among its tokens."""

from deployments.types import Thinking


class Thoughts:
    """Follows one answer. A model that thinks does so first: what looks like thoughts later on is text."""

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._tokens: list[int] = []
        self.inside = thinking.is_open
        self.num_tokens = 0
        """Of the thoughts so far, the mark that ends them included and the one that begins them too."""

    @property
    def may_begin(self) -> bool:
        """Whether the next token may be the first one of the mark that begins thoughts."""
        return not self._tokens and not self._thinking.is_open

    def accept(self, token_id: int) -> bool:
        """Whether this token is one of the thoughts, their marks included."""
        self._tokens.append(token_id)
        begin, end = self._thinking.begin_ids, self._thinking.end_ids
        if not self.inside and tuple(self._tokens) == begin:
            self.inside, self.num_tokens = True, len(begin)
            return True
        if not self.inside:
            return False
        self.num_tokens += 1
        if tuple(self._tokens[-len(end) :]) == end:
            self.inside = False
        return True

    @property
    def end_begun(self) -> int:
        """How many tokens of the mark that ends the thoughts stand at the end of them."""
        end = self._thinking.end_ids
        sizes = range(min(len(end) - 1, len(self._tokens)), 0, -1)
        return next((size for size in sizes if tuple(self._tokens[-size:]) == end[:size]), 0)
