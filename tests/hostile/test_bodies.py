"""Mutated request bodies: an answer or a refusal in OpenAI's shape, never a defect, and nothing held afterwards."""

import json

import pytest

from tests.support.hostile.bodies import mutated_body
from tests.support.hostile.body_fuzz import fuzz_bodies
from tests.support.hostile.corpus import media_corpus
from tests.support.hostile.worker import Tally

BODIES = 500
"""`python -m benchmarks fuzz` does the same with thousands."""
MAX_GROWN_BYTES = 64 * 2**20


def test_mutated_bodies_are_answered_or_refused() -> None:
    tally = Tally()
    for report in fuzz_bodies(BODIES):
        tally.add(report)
    assert not tally.faults, [f"{fault.number}: {fault.detail}" for fault in tally.faults[:10]]
    assert tally.outcomes["200"] > BODIES // 50
    assert tally.outcomes["400"] > BODIES // 50
    assert tally.hungriest is not None
    assert tally.hungriest.grown_bytes < MAX_GROWN_BYTES


def test_many_mutated_bodies_are_json_still() -> None:
    """Bodies that no parser lets in would test nothing but the parser."""
    bodies = [mutated_body(media_corpus("pictures"), f"seed {number}") for number in range(100)]
    assert sum(_is_json(body) for body in bodies) > 30


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


@pytest.mark.parametrize("seed", ["a", "b"])
def test_the_same_seed_gives_the_same_body(seed: str) -> None:
    assert mutated_body(media_corpus("pictures"), seed) == mutated_body(media_corpus("pictures"), seed)
