"""How many of a prompt's tokens stand for which kind of media."""

from collections.abc import Sequence
from typing import Any

from deployments.types import MediaKind, TokenCounts


def count_tokens(length: int, replacements: Sequence[dict[str, Any]], tokens: dict[MediaKind, str]) -> TokenCounts:
    """Of a prompt of `length` tokens, in which each placeholder was replaced by the text of one of `replacements`.

    `tokens`: the one token by which a kind's content is written, repeated. Families that write a video's frames as
    pictures are counted by what the client sent; sound inside a video counts as sound. Timestamps and brackets are text.
    """
    visual = {tokens[kind] for kind in (MediaKind.IMAGE, MediaKind.VIDEO) if kind in tokens}
    audio = tokens.get(MediaKind.AUDIO)
    counts = dict.fromkeys(MediaKind, 0)
    for replacement in replacements:
        text, kind = replacement["replacement"], MediaKind(replacement["type"])
        if audio is not None:
            counts[MediaKind.AUDIO] += text.count(audio)
        if kind is not MediaKind.AUDIO:
            counts[kind] += sum(text.count(token) for token in visual)
    image, video, sound = counts[MediaKind.IMAGE], counts[MediaKind.VIDEO], counts[MediaKind.AUDIO]
    return TokenCounts(text=length - image - video - sound, image=image, video=video, audio=sound)
