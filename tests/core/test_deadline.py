"""A deadline stops work, and says which stage held it."""

import pickle
import time

import pytest

from deployments.core.deadline import Deadline
from deployments.errors import StageTimeout, WorkCancelled


def test_time_left_never_is_negative_and_the_stage_is_named_when_it_is_over() -> None:
    deadline = Deadline(0, "decode")
    assert deadline.remaining_s() == 0
    with pytest.raises(StageTimeout, match="decode stage"):
        deadline.check()


def test_a_stages_cap_shortens_but_never_lengthens() -> None:
    request = Deadline(10, "request")
    assert request.capped(1, "fetch").remaining_s() <= 1
    assert request.capped(99, "fetch").remaining_s() <= 10


def test_cancelled_work_is_told_so_even_when_time_is_left() -> None:
    deadline = Deadline(100, "decode")
    deadline.check()
    assert deadline.overdue_s(time.monotonic()) < 0
    deadline.cancel()
    with pytest.raises(WorkCancelled):
        deadline.check()
    assert deadline.overdue_s(time.monotonic() + 3) >= 3


def test_a_timeout_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(StageTimeout("decode", param="messages[0].content[1]")))
    assert (error.stage, error.param, error.status) == ("decode", "messages[0].content[1]", 504)
    assert str(error) == "the request's time ran out in the decode stage"
