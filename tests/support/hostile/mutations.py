"""Files that are almost right: real ones, changed where it hurts. The same seed gives the same bytes."""

import random
from collections.abc import Callable, Mapping

from tests.support.hostile.structure import Piece, mended, pieces

MAX_BYTES = 2**20
_HEAD_BYTES = 512
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)

Mutation = Callable[[bytes, random.Random], bytes]


def mutated_file(corpus: Mapping[str, bytes], seed: str) -> bytes:
    """A file of `corpus` after one to four mutations."""
    chance = random.Random(seed)
    data = chance.choice(list(corpus.values()))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        if chance.random() < 0.1:
            data = _splice(data, chance.choice(list(corpus.values())), chance)
        else:
            data = chance.choice(MUTATIONS)(data, chance)[:MAX_BYTES] or b"\0"
    return mended(data) if chance.random() < 0.7 else data


def _flip_bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 2, 8, 64))):
        changed[_place(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    fill = chance.choice((b"\0", b"\xff", b"\x80", bytes([chance.randrange(256)])))
    length = chance.choice((1, 2, 4, 16, 256))
    return data[:at] + (fill * length)[: len(data) - at] + data[at + length :]


def _extreme_number(data: bytes, chance: random.Random) -> bytes:
    return _with_number(data, _place(data, chance), chance.choice((1, 2, 4, 8)), chance)


def _truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: _place(data, chance)]


def _remove(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + data[at + chance.choice((1, 2, 7, 64, 1024)) :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.randbytes(chance.choice((1, 2, 7, 64, 1024))) + data[at:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    end = at + chance.choice((1, 4, 64, 1024))
    return data[:end] + data[at:end] * chance.choice((1, 3, 200)) + data[end:]


def _swap_pieces(data: bytes, chance: random.Random) -> bytes:
    one, two = sorted((_piece(data, chance), _piece(data, chance)), key=lambda piece: piece.start)
    if one.end > two.start:
        return data[: one.start] + data[one.end :]
    between = data[one.end : two.start]
    return data[: one.start] + data[two.start : two.end] + between + data[one.start : one.end] + data[two.end :]


def _shuffle_pieces(data: bytes, chance: random.Random) -> bytes:
    found, flat = pieces(data, chance), []
    for piece in found:  # those beside each other, not those inside of others
        if not flat or piece.start >= flat[-1].end:
            flat.append(piece)
    contents = [data[piece.start : piece.end] for piece in flat]
    chance.shuffle(contents)
    return data[: flat[0].start] + b"".join(contents) + data[flat[-1].end :]


def _repeat_piece(data: bytes, chance: random.Random) -> bytes:
    piece = _piece(data, chance)
    return data[: piece.end] + data[piece.start : piece.end] * chance.choice((1, 2, 50)) + data[piece.end :]


def _drop_piece(data: bytes, chance: random.Random) -> bytes:
    piece = _piece(data, chance)
    return data[: piece.start] + data[piece.end :]


def _lie_about_size(data: bytes, chance: random.Random) -> bytes:
    piece = _piece(data, chance)
    return _with_number(data, piece.size_at, piece.width, chance)


def _lie_inside(data: bytes, chance: random.Random) -> bytes:
    """A number in the beginning of a piece, where counts, sizes, rates and offsets stand."""
    piece = _piece(data, chance)
    at = chance.randrange(piece.start, min(piece.end, piece.start + 96))
    return _with_number(data, at, chance.choice((1, 2, 4, 4, 8)), chance)


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _flip_bits,
    _overwrite,
    _extreme_number,
    _extreme_number,
    _truncate,
    _remove,
    _insert,
    _repeat,
    _swap_pieces,
    _shuffle_pieces,
    _repeat_piece,
    _drop_piece,
    _lie_about_size,
    _lie_about_size,
    _lie_inside,
    _lie_inside,
    _lie_inside,
)


def _splice(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    cut = _place(data, chance)
    return data[:cut] + other[chance.choice((cut, 0, _place(other, chance))) :]


def _place(data: bytes, chance: random.Random) -> int:
    """Anywhere, and half of the times among the first bytes."""
    return chance.randrange(min(len(data), _HEAD_BYTES) if chance.random() < 0.5 else len(data))


def _piece(data: bytes, chance: random.Random) -> Piece:
    found = pieces(data, chance)
    return chance.choice([piece for piece in found if piece.end > piece.start] or [Piece(0, len(data), 0, 1)])


def _with_number(data: bytes, at: int, width: int, chance: random.Random) -> bytes:
    number = chance.choice((*_EXTREMES, len(data), len(data) - at, chance.getrandbits(8 * width)))
    if chance.random() < 0.3:
        number = -number
    raw = (number % (1 << 8 * width)).to_bytes(width, chance.choice(("big", "little")))
    return data[:at] + raw + data[at + width :]
