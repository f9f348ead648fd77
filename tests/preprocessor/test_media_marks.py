"""Names of media: equal for equal contents that are read alike, and unequal as soon as anything differs."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from deployments.preprocessor.media import Clip, Media, blank_frames
from deployments.preprocessor.media_marks import media_marks
from deployments.types import DecodedVideo, MediaInput, MediaKind

VIDEO = DecodedVideo(25.0, 2.0, 50, (0, 25), (0.0, 1.0), 36, 64, 0, "pyav", 0, 0.001, 4096, (1, 4, 4))
CLIP = MediaInput(MediaKind.VIDEO, "a", "mp4", VIDEO, digest="1" * 64)
CHANGES = {
    "indices": (0, 26),
    "timestamps_s": (0.0, 1.04),
    "source_height": 37,
    "source_width": 65,
    "rotation_deg": 90,
    "backend": "opencv",
    "lost_frames": 1,
    "payload_bytes": 4097,
    "patch_grid": (1, 2, 8),
}


def digest(item: MediaInput, settings: object = None, **media: object) -> str:
    return media_marks([item], Media(**media), settings)[0].digest


@given(st.sampled_from(sorted(CHANGES)))
def test_whatever_decides_a_clips_frames_is_part_of_its_name(fact):
    other = dataclasses.replace(CLIP, video=dataclasses.replace(VIDEO, **{fact: CHANGES[fact]}))
    assert digest(other) != digest(CLIP)


def test_contents_kinds_containers_and_settings_are_part_of_names_and_labels_and_seconds_are_not():
    others = [
        dataclasses.replace(CLIP, digest="2" * 64),
        dataclasses.replace(CLIP, container="matroska"),
        dataclasses.replace(CLIP, kind=MediaKind.IMAGE),
    ]
    names = {
        digest(CLIP),
        *(digest(other) for other in others),
        digest(CLIP, "smaller"),
        digest(CLIP, clip_of_sound=[0]),
    }
    assert len(names) == 6
    again = dataclasses.replace(CLIP, label="b", video=dataclasses.replace(VIDEO, decode_s=9.0))
    assert digest(again) == digest(CLIP)


def test_a_picture_is_named_alike_whatever_it_stands_beside_and_a_clip_beside_clips_that_are_read_alike():
    picture = MediaInput(MediaKind.IMAGE, "b", "png", digest="3" * 64)
    ready, other_size = (Clip(blank_frames(2, 32, 32), VIDEO, at_target) for at_target in (True, False))

    def names(inputs, clips=(), **media):
        return {mark.label: mark.digest for mark in media_marks(inputs, Media(clips=list(clips), **media), None)}

    assert names([picture])["b"] == names([picture, CLIP], [other_size], clip_of_sound=[0])["b"]
    assert names([CLIP], [ready])["a"] == names([CLIP, CLIP], [ready, ready])["a"]
    assert names([CLIP], [ready])["a"] != names([CLIP, CLIP], [ready, other_size])["a"]


def test_media_without_a_digest_have_no_name_and_a_clips_sound_has_its_clips():
    assert digest(dataclasses.replace(CLIP, digest="")) == ""
    clip, sound = media_marks([CLIP], Media(sounding={"a"}), None)
    assert (clip.kind, sound.kind, sound.label) == (MediaKind.VIDEO, MediaKind.AUDIO, "a")
