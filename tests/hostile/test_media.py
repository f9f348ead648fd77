"""Mutated files of every format: pixels, samples or a client's error come out, and nothing else is touched.

`python -m benchmarks fuzz` does the same with thousands.
"""

import random

import numpy as np
import pytest

from tests.support.hostile.corpus import GROUPS, media_corpus
from tests.support.hostile.media_fuzz import fuzz_media
from tests.support.hostile.media_subject import MediaSubject
from tests.support.hostile.mutations import mutated_file
from tests.support.hostile.structure import mended, pieces
from tests.support.hostile.worker import Report, Tally, feed_all

FILES = 400
MAX_GROWN_BYTES = 384 * 2**20
"""Frames of 64 MiB at most, the codec's own pictures, and the encoder's of what the file holds."""


@pytest.mark.parametrize("group", GROUPS)
def test_mutated_files_give_media_or_a_client_s_error(group: str) -> None:
    tally = Tally()
    for report in fuzz_media(group, FILES):
        tally.add(report)
    assert not tally.faults, _told(tally.faults)
    assert not tally.outcomes["refused namelessly"]
    assert tally.outcomes["answered"] > FILES // 20  # mutations that leave nothing to read would find nothing
    assert tally.outcomes["refused"] > FILES // 20
    assert tally.hungriest is not None
    assert tally.hungriest.grown_bytes < MAX_GROWN_BYTES


@pytest.mark.parametrize("group", GROUPS)
def test_unchanged_files_are_read(group: str) -> None:
    subject = MediaSubject(deadline_s=60.0)
    for name, data in media_corpus(group).items():
        # Usual builds of OpenCV, which has its turn here, can't decode AV1.
        assert subject.feed(data) in (("answered", "refused") if name == "mp4 av1" else ("answered",)), name


def test_the_same_seed_gives_the_same_file_and_another_one_another() -> None:
    corpus = media_corpus("pictures")
    files = [mutated_file(corpus, f"seed {number}") for number in range(40)]
    assert files == [mutated_file(corpus, f"seed {number}") for number in range(40)]
    assert len(set(files)) > 30


@pytest.mark.parametrize("group", GROUPS)
def test_the_structure_of_files_is_found_and_mending_changes_nothing_that_is_whole(group: str) -> None:
    for name, data in media_corpus(group).items():
        found = pieces(data, random.Random(0))
        assert found, name
        assert all(0 <= piece.start < piece.end <= len(data) for piece in found), name
        assert mended(data) == data, name


class Careless:
    """What the worker must see: a death, a file opened, a memory that grows."""

    def feed(self, data: bytes) -> str:
        if data == b"die":
            import os

            os.abort()
        if data == b"open":
            open("/etc/hostname").close()
        if data == b"dial":
            import socket

            socket.socket().close()
        if data == b"grow":
            return str(np.ones(200 * 2**20, np.uint8)[-1])
        return "fine"


def test_a_worker_tells_deaths_touches_and_growth_and_goes_on() -> None:
    inputs = [b"", b"die", b"", b"open", b"dial", b"grow", b""]
    reports = list(feed_all(Careless, inputs, warm_up=[b""]))
    assert [report.outcome for report in reports] == ["fine", "died", "fine", "died", "died", "1", "fine"]
    assert reports[5].grown_bytes > 190 * 2**20


def _told(faults: list[Report]) -> str:
    return "\n".join(f"{fault.number}: {fault.outcome}, {fault.detail}" for fault in faults[:10])
