"""Whole characters only, nothing lost, stop strings found wherever the token borders fall."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.model.output.assembler import OutputAssembler
from deployments.model.output.detokenizer import MAX_HELD, Detokenizer, StopStrings
from deployments.model.sequence import Token
from deployments.types import SamplingParams


def _bytes_decode(ids):
    """A byte-level tokenizer: one token a byte."""
    return bytes(ids).decode("utf-8", errors="replace")


def _piece(token_id):
    return bytes([token_id]).decode("utf-8", errors="replace"), bytes([token_id])


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffd")))
def test_text_comes_out_whole_and_in_whole_characters(text):
    detokenizer = Detokenizer(_bytes_decode)
    pieces = [detokenizer.push(byte) for byte in text.encode()]
    assert "".join(pieces) + detokenizer.rest() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_dropped():
    detokenizer = Detokenizer(_bytes_decode)
    pieces = [detokenizer.push(byte) for byte in "aé".encode()[:-1]]
    assert "".join(pieces) + detokenizer.rest() == "a"


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_stop_strings_cut_where_they_first_appear(text, stops, data):
    places = [text.find(stop) for stop in stops if stop in text]
    filter_, out, cut = StopStrings(stops), "", False
    rest = text
    while rest and not cut:
        size = data.draw(st.integers(1, len(rest)))
        piece, cut = filter_.push(rest[:size])
        out, rest = out + piece, rest[size:]
    if not cut:
        out += filter_.rest()
    assert cut == bool(places)
    if not cut:
        assert out == text
    else:
        assert not any(stop in out for stop in stops)
        assert text.startswith(out)


def _tokens(text, finish="length"):
    data = text.encode()
    return [(0, Token(byte), finish if i == len(data) - 1 else None) for i, byte in enumerate(data)]


def test_answer_ends_at_a_stop_string_and_ignores_what_follows():
    answer = OutputAssembler(_bytes_decode, SamplingParams(stop=("END",)), _piece)
    first = answer.deltas(_tokens("one E", finish=None))
    second = answer.deltas(_tokens("ND and more"))
    assert [delta.text for delta in (*first, *second)] == ["one ", ""]
    assert second[0].finish_reason == "stop"
    assert answer.finished
    assert first[0].num_tokens + second[0].num_tokens == len("one END")


def test_stop_token_is_counted_but_has_no_text():
    answer = OutputAssembler(_bytes_decode, SamplingParams(), _piece)
    (delta,) = answer.deltas(_tokens("ab", finish="stop"))
    assert (delta.text, delta.num_tokens, delta.finish_reason) == ("a", 2, "stop")


def test_choices_are_told_apart():
    answer = OutputAssembler(_bytes_decode, SamplingParams(n=2), _piece)
    deltas = answer.deltas([(0, Token(97), None), (1, Token(98), "length"), (0, Token(99), None)])
    assert [(delta.index, delta.text, delta.finish_reason) for delta in deltas] == [(0, "ac", None), (1, "b", "length")]
    assert not answer.finished


@given(st.lists(st.integers(0x80, 0xFF), min_size=30, max_size=60), st.text("aé€𝄞", min_size=1, max_size=5))
def test_half_characters_without_end_are_let_go_and_what_follows_is_whole(halves, text):
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return _bytes_decode(ids)

    detokenizer = Detokenizer(decode)
    out = "".join(detokenizer.push(byte) for byte in [*halves, 0x20, *text.encode()]) + detokenizer.rest()
    assert out.endswith(" " + text)
    assert longest <= 4 * MAX_HELD


def test_tokens_without_text_are_let_go_too():
    lengths = []

    def decode(ids):
        lengths.append(len(ids))
        return "".join(chr(i) for i in ids if i)

    detokenizer = Detokenizer(decode)
    assert "".join(detokenizer.push(i) for i in [65, *[0] * 500, 66]) == "AB"
    assert max(lengths) <= 4 * MAX_HELD
