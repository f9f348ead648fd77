"""One round of fuzzing request bodies: what `test_bodies` does a little of and the benchmark much."""

from collections.abc import Iterator

from tests.support.hostile.bodies import mutated_body
from tests.support.hostile.body_subject import BodySubject
from tests.support.hostile.corpus import GROUPS, media_corpus
from tests.support.hostile.worker import Report, feed_all


def fuzz_bodies(count: int, *, seed: int = 0, workers: int = 1) -> Iterator[Report]:
    """Reports of `count` mutated bodies."""
    files = {name: data for group in GROUPS for name, data in media_corpus(group).items()}
    bodies = (mutated_body(files, f"bodies {seed} {number}") for number in range(count))
    warm_up = [mutated_body(files, f"warm-up {number}") for number in range(200)]
    return feed_all(BodySubject, bodies, warm_up=warm_up, workers=workers)
