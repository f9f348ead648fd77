"""One round of fuzzing a group of media files: what `test_media` does a little of and the benchmark much."""

import functools
from collections.abc import Iterator

from tests.support.hostile.bombs import bombs_of
from tests.support.hostile.corpus import media_corpus
from tests.support.hostile.media_subject import MediaSubject
from tests.support.hostile.mutations import mutated_file
from tests.support.hostile.worker import Report, feed_all

DEADLINE_S = 5.0


def fuzz_media(group: str, count: int, *, seed: int = 0, workers: int = 1) -> Iterator[Report]:
    """Reports of `count` mutated files of one of `corpus.GROUPS`."""
    corpus = media_corpus(group)
    seeds = corpus | bombs_of(group)
    files = (mutated_file(seeds, f"{group} {seed} {number}") for number in range(count))
    subject = functools.partial(MediaSubject, DEADLINE_S)
    # libsndfile looks for resource forks (`._`, `.AppleDouble/`) beside whatever has no magic bytes that it knows, and
    # raw MP3 has none. The names are fixed ones, in the working folder: nothing that a file could choose.
    return feed_all(subject, files, warm_up=list(corpus.values()), workers=workers, hide_files=group == "sounds")
