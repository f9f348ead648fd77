"""What the tokens of a checkpoint say: texts of many, and name and bytes of one."""

import json
import re
from typing import Any

from deployments.model.output.detokenizer import Decode

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""


class Vocabulary:
    """Of one tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[int, str] = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        self._special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._bytes_of = _byte_alphabet() if _is_byte_level(tokenizer) else None

    def decoder(self, *, skip_special_tokens: bool = True, visible: tuple[str, ...] = ()) -> Decode:
        """The text of tokens, without beautified spaces; special ones left out but for those that are `visible`."""
        if not skip_special_tokens or not visible:
            return lambda ids: self._tokenizer.decode(
                list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        hidden = {i for i in self._special if self._added[i] not in visible}
        return lambda ids: self._tokenizer.decode(
            [i for i in ids if i not in hidden], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def piece(self, token_id: int) -> tuple[str, bytes]:
        """A token's text and its own bytes, which may be half a character; of a special token its name."""
        if token_id in self._added:
            return self._added[token_id], self._added[token_id].encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id) or ""
        if self._bytes_of is not None and all(char in self._bytes_of for char in token):
            raw = bytes(self._bytes_of[char] for char in token)
        elif byte := _BYTE_TOKEN.fullmatch(token):
            raw = bytes([int(byte[1], 16)])
        else:
            raw = token.replace(_SPACE, " ").encode()
        return raw.decode(errors="replace"), raw

    def encode(self, text: str) -> list[int]:
        """Tokens of a text by itself; special tokens in it are read as such."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    return '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder"))


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes: printable ones stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
