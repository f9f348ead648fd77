"""Errors keep what they know across processes, and show nothing unbounded."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import errors
from deployments.errors import MAX_SHOWN_CHARS, Overloaded, SluiceError, shown

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SluiceError)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_survives_pickling_with_its_state(kind: type[SluiceError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what was wrong", param="messages[0]")))
    assert type(error) is kind
    assert "what was wrong" in error.message
    assert error.param == "messages[0]"


def test_retry_after_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(Overloaded("full", retry_after_s=2.5))).retry_after_s == 2.5


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_named_in_the_trees_docstring(kind: type[SluiceError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


@given(st.text(max_size=1000))
def test_shown_text_is_bounded_and_printable(text: str) -> None:
    result = shown(text)
    assert len(result) <= MAX_SHOWN_CHARS
    assert result.isprintable()


def test_a_data_urls_payload_is_never_shown() -> None:
    assert shown("data:video/mp4;base64," + "QUJD" * 1000) == "data:video/mp4;base64,<4000 characters>"
