"""A queue may be long when it has just formed, and is kept short when it lasts."""

import pytest

from deployments.ingress.admission.queue_timeout import RECOVERY, QueueTimeout
from deployments.ingress.admission.retry_after import HORIZON_S, RetryAfterSlots


def test_patience_wears_off_while_requests_wait_and_comes_back_slowly() -> None:
    patience = QueueTimeout(0.5, 5.0)
    patience.see(100.0, queued=True)
    patience.see(102.0, queued=True)
    assert patience.longest_s == pytest.approx(3.0)
    patience.see(110.0, queued=False)
    assert patience.longest_s == 0.5
    patience.see(120.0, queued=False)
    assert patience.longest_s == pytest.approx(10.0 * RECOVERY)
    patience.see(1000.0, queued=True)
    assert patience.longest_s == 5.0


def test_a_burst_is_granted_no_less_than_what_always_is() -> None:
    assert QueueTimeout(60.0, 5.0).longest_s == 60.0


def test_turns_are_given_no_further_ahead_than_some_will_wait_for_them() -> None:
    comebacks = RetryAfterSlots()
    turns = [comebacks.next_s(0.0, 1.0, 1.0) for _ in range(100)]
    assert turns[:3] == [1.0, 2.0, 3.0]
    assert max(turns) < 1.0 + HORIZON_S
    assert turns.count(1.0) > 1
