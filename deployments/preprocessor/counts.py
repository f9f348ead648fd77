"""How many of a prompt's tokens stand for which kind of media."""

from collections.abc import Sequence
from typing import Any

from deployments.types import MediaKind, TokenCounts


def tokens_of(processor: Any, tokenizer: Any, kind: MediaKind) -> frozenset[str]:
    """The tokens that a processor writes for the content of one kind of media; some families count brackets too."""
    if processor is tokenizer:  # a model of text alone; its tokenizer may have been cut out of a multimodal one
        return frozenset()
    ids = [token_id for token_id in getattr(processor, f"{kind}_token_ids", ()) if token_id is not None]
    return frozenset(tokenizer.convert_ids_to_tokens(ids))


def count_tokens(
    length: int, replacements: Sequence[dict[str, Any]], tokens: dict[MediaKind, frozenset[str]]
) -> TokenCounts:
    """Of a prompt of `length` tokens, in which each placeholder was replaced by the text of one of `replacements`.

    `tokens`: as `tokens_of` gives them. Families that write a video's frames as pictures are counted by what the client
    sent; sound in a video counts as sound. Timestamps are text.
    """
    visual = tokens[MediaKind.IMAGE] | tokens[MediaKind.VIDEO]
    counts = dict.fromkeys(MediaKind, 0)
    for replacement in replacements:
        text, kind = replacement["replacement"], MediaKind(replacement["type"])
        counts[MediaKind.AUDIO] += sum(text.count(token) for token in tokens[MediaKind.AUDIO])
        if kind is not MediaKind.AUDIO:
            counts[kind] += sum(text.count(token) for token in visual)
    return TokenCounts({"text": length - sum(counts.values()), **{kind.value: n for kind, n in counts.items()}})
