"""The generator: the same media for the same seed, true to what they are said to show, playable as files."""

import io
import itertools
from dataclasses import replace

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deployments.demo.samples import SAMPLES, write_samples
from deployments.demo.synth.drawing import coverage, draw, draw_clip
from deployments.demo.synth.grounds import GroundKind, render
from deployments.demo.synth.scenes import (
    STEP,
    Colour,
    Direction,
    Shape,
    random_pair,
    random_photograph,
    random_scene,
)
from deployments.demo.synth.sounds import Pitch, random_sound, waveform


def test_same_seed_makes_the_same_media() -> None:
    def make(seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        frames = draw_clip(random_scene(rng), 64, 96, np.linspace(0, 1, 6))
        track = waveform(random_sound(rng, duration_s=1.0), 16000, rng)
        return [frames.tobytes(), track.tobytes()]

    assert make(5) == make(5)
    assert make(5) != make(6)


@pytest.mark.parametrize("direction", list(Direction))
def test_the_shape_moves_the_way_that_the_scene_says(direction: Direction) -> None:
    (figure,) = random_scene(np.random.default_rng(1), direction=direction).figures
    centres = [_centre(coverage(figure, 120, 160, moment)) for moment in (0.0, 0.5, 1.0)]
    for before, after in itertools.pairwise(centres):
        moved = np.sign(np.round(np.subtract(after, before)))
        assert tuple(moved) == STEP[direction]


def test_mirrored_and_reversed_scenes_look_mirrored_and_reversed() -> None:
    scene = random_scene(np.random.default_rng(2), direction=Direction.LEFT)
    forwards = draw_clip(scene, 80, 120, (0.0, 1.0))
    assert scene.mirrored().figures[0].direction is Direction.RIGHT
    difference = draw_clip(scene.mirrored(), 80, 120, (0.0, 1.0)).astype(int) - forwards[:, :, ::-1]
    assert np.abs(difference).max() <= 1
    assert scene.reversed().figures[0].direction is Direction.RIGHT
    assert np.array_equal(draw_clip(scene.reversed(), 80, 120, (0.0, 1.0)), forwards[::-1])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(Colour)),
    st.sampled_from(list(Shape)),
    st.sampled_from(list(GroundKind)),
    st.integers(48, 200),
    st.integers(48, 200),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_the_paint_is_on_the_shape_and_nowhere_else(
    colour: Colour, shape: Shape, kind: GroundKind, height: int, width: int, progress: float, seed: int
) -> None:
    scene = random_scene(np.random.default_rng(seed), colour, shape, kind=kind)
    (figure,) = scene.figures
    pixels, alpha = draw(scene, height, width, progress), coverage(figure, height, width, progress)
    painted = (pixels == figure.paint).all(2)
    assert painted[alpha == 1].all() or figure.stroke is not None
    assert painted.any() or min(height, width) * figure.radius < 4
    ground = render(scene.ground, height, width)
    assert np.array_equal(pixels[alpha == 0], ground[alpha == 0])


@pytest.mark.parametrize("kind", [GroundKind.DARK, GroundKind.WHITE, GroundKind.COLOUR, GroundKind.GRADIENT])
def test_every_shape_stands_out_from_its_ground(kind: GroundKind) -> None:
    for seed in range(40):
        scene = random_scene(np.random.default_rng(seed), kind=kind)
        ground = render(scene.ground, 40, 60).reshape(-1, 3)
        assert np.linalg.norm(ground.astype(float) - scene.figures[0].paint, axis=1).min() > 70


def test_two_shapes_have_two_colours_and_do_not_touch() -> None:
    for seed in range(40):
        first, second = random_pair(np.random.default_rng(seed)).figures
        assert list(Colour).index(first.colour) < list(Colour).index(second.colour)
        assert not (coverage(first, 90, 90) * coverage(second, 90, 90)).any()


def test_a_camera_pans_over_a_photograph_that_stays_as_it_is() -> None:
    scene = next(
        one for one in (random_photograph(np.random.default_rng(seed)) for seed in range(99)) if abs(one.pan[0]) > 0.05
    )
    assert scene.figures == ()
    first, last = draw_clip(replace(scene, pan=(abs(scene.pan[0]), 0.0)), 80, 100, (0.0, 1.0)).astype(int)
    moved = round(100 * abs(scene.pan[0]))
    assert np.array_equal(first[:, moved:], last[:, :-moved])


@pytest.mark.parametrize("pitch", list(Pitch))
@pytest.mark.parametrize("beeps", [1, 2, 3, 4])
def test_a_sound_has_its_beeps_at_its_pitch(pitch: Pitch, beeps: int) -> None:
    rng = np.random.default_rng(beeps)
    sound = random_sound(rng, pitch, beeps)
    wave = waveform(sound, 16000, rng)
    loud = np.convolve(np.abs(wave), np.ones(480) / 480, "same") > sound.level * 0.2
    assert np.count_nonzero(np.diff(loud.astype(int)) == 1) + loud[0] == beeps
    spectrum = np.abs(np.fft.rfft(wave))
    peak_hz = spectrum.argmax() * 16000 / len(wave)
    assert (peak_hz > 600) == (pitch is Pitch.HIGH)


def test_samples_are_playable_files_of_the_size_and_length_they_are_meant_to_have(tmp_path) -> None:  # type: ignore[no-untyped-def]
    written = dict(write_samples(tmp_path / "new"))
    assert [path.name for path in written] == [sample.name for sample in SAMPLES]
    for sample, (path, sentence) in zip(SAMPLES, written.items(), strict=True):
        assert sentence.endswith(".")
        if sample.item.scene is None:
            assert soundfile.info(path).duration == pytest.approx(sample.item.sound.duration_s, abs=0.01)
        elif sample.item.clip_s is None:
            assert Image.open(path).size == (sample.width, sample.height)
        else:
            with av.open(io.BytesIO(path.read_bytes())) as container:
                assert len(container.streams.audio) == (sample.item.sound is not None)
                frames = list(container.decode(video=0))
            assert len(frames) == round(sample.item.clip_s * 30)
            assert (frames[0].width, frames[0].height) == (sample.width, sample.height)


def _centre(alpha: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(alpha > 0.5)
    return float(columns.mean()), float(rows.mean())
