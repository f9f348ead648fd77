"""Clips whose patches go straight from the decoder to the model: what the model gets is the same as ever."""

from dataclasses import replace

import numpy as np
import pytest

from deployments.config import AppConfig, DecoderConfig, PreprocessorConfig
from deployments.media.patches import PatchStack
from deployments.model.multimodal.pixels import add_clips
from deployments.preprocessor.family import read_family
from deployments.preprocessor.hf_processor import HfProcessor
from deployments.preprocessor.known_clips import find_known_clips, trial_media
from deployments.preprocessor.limits import Sizes
from deployments.preprocessor.preparation import Preparation
from deployments.preprocessor.prompt import Prompt
from deployments.types import DecodedVideo, PatchRule
from tests.support.preparing import asking, decoded, image, noise, picture_file, preparation, prepare, video
from tests.support.tiny_processors import FAMILIES, tiny_checkpoint

CUTTING = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni", "qwen3_omni", "glm4v", "glm46v"]
STAGES = {family: preparation(family) for family in CUTTING}


def patched(
    rule: PatchRule, frames: int, seed: int
) -> tuple[DecodedVideo, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A clip of noise at a size that no family here changes: what is told of it, its frames, its patches."""
    side = 4 * rule.patch * rule.merge
    pixels = noise(frames, side, side, 3, seed=seed)
    stack = PatchStack(rule, frames, side, side)
    for number, frame in enumerate(pixels):
        stack.put(number, [frame[..., channel] for channel in range(3)])
    facts = decoded([7 * number for number in range(frames)], side, side)
    return facts, {"frames_THWC": pixels}, {"patches": stack.finish()}


@pytest.mark.parametrize("family", CUTTING)
@pytest.mark.parametrize("counts", [(4,), (6,), (5,), (4, 6)], ids=str)
def test_the_model_gets_what_the_processor_would_have_made(family, counts):
    stage = STAGES[family]
    rule = stage.profile.patches
    assert rule is not None
    clips = [patched(rule, frames, seed) for seed, frames in enumerate(counts)]
    chat = asking(*range(len(clips)), "What is this?")
    usual, tensors = prepare(
        stage, chat, [video(i, facts) for i, (facts, _, _) in enumerate(clips)], [f for _, f, _ in clips]
    )
    grids = [(-(-n // rule.temporal), 4 * rule.merge, 4 * rule.merge) for n in counts]
    at_model = [
        replace(video(i, replace(facts, patch_grid=grid)), pixels_at_model=True)
        for i, ((facts, _, _), grid) in enumerate(zip(clips, grids, strict=True))
    ]
    short, rest = prepare(stage, chat, at_model)
    assert "pixel_values_videos" not in rest
    add_clips(rest, [dict(patches) for _, _, patches in clips])
    assert rest.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert np.array_equal(rest[name], tensor), name
    assert np.array_equal(short.token_ids, usual.token_ids)
    assert (short.counts, short.pixel_norm) == (usual.counts, usual.pixel_norm)


@pytest.mark.parametrize("family", CUTTING)
def test_a_later_question_about_the_same_clips_reads_as_the_first_one_would(family):
    stage = STAGES[family]
    rule = stage.profile.patches
    clips = [patched(rule, frames, seed) for seed, frames in enumerate((4, 6))]
    items = [video(i, facts) for i, (facts, _, _) in enumerate(clips)]
    blank = [
        replace(
            item, video=replace(item.video, patch_grid=(n // 2, 4 * rule.merge, 4 * rule.merge)), pixels_at_model=True
        )
        for item, n in zip(items, (4, 6), strict=True)
    ]
    for said in (
        (0, 1, "What is this?"),
        ("Look: ", 0, "\n and  ", 1, "... the same?"),
        (0, "a", 1),
        (0, 1, "What is this?"),
    ):
        usual, tensors = prepare(stage, asking(*said), items, [frames for _, frames, _ in clips])
        short, sizes = prepare(stage, asking(*said), blank)
        assert np.array_equal(short.token_ids, usual.token_ids)
        assert short.counts == usual.counts
        for name, tensor in sizes.items():
            assert (tensor.dtype, np.array_equal(tensor, tensors[name])) == (tensors[name].dtype, True), name


def read_family_of(checkpoint):
    return read_family(checkpoint.processor, checkpoint.model_config, lambda kind: True)


class Counting(HfProcessor):
    calls = 0

    def expand(self, *args, **options):
        Counting.calls += 1
        return super().expand(*args, **options)


def test_known_clips_are_not_shown_to_the_processor_again_and_others_are():
    checkpoint = tiny_checkpoint(FAMILIES["qwen2_5_vl"]())
    stage = STAGES["qwen2_5_vl"]
    processor = Counting(checkpoint.processor, read_family_of(checkpoint))
    token = checkpoint.processor.video_token
    prompts = [Prompt(f"{words} {token}{token}.", add_special_tokens=False) for words in ("See", "And then")]
    media = trial_media(stage.profile.patches)
    known = find_known_clips(processor, prompts, media)
    assert known is not None
    Counting.calls = 0
    for prompt in (*prompts, *prompts):
        found = known.expand(processor, prompt, media, Sizes(None, None), True)
        assert found.equals(
            HfProcessor(checkpoint.processor, read_family_of(checkpoint)).expand(prompt, media, Sizes(None, None), True)
        )
    assert Counting.calls == 1
    later = replace(media.clips[0], video=replace(media.clips[0].video, timestamps_s=(0.0, 1.0, 2.0, 3.0)))
    known.expand(processor, prompts[0], replace(media, clips=[later, media.clips[1]]), Sizes(None, None), True)
    assert Counting.calls == 2


def test_patches_beside_whole_frames_are_put_together_again():
    stage = STAGES["qwen3_vl"]
    (one, frames, patches), (other, more, _) = (patched(stage.profile.patches, 4, seed) for seed in (0, 1))
    _, usual = prepare(stage, asking(0, 1), [video(0, one), video(1, other)], [frames, more])
    cut = replace(one, patch_grid=(2, 8, 8))
    _, mixed = prepare(stage, asking(0, 1), [video(0, cut), video(1, other)], [patches, more])
    assert np.array_equal(mixed["pixel_values_videos"], usual["pixel_values_videos"])


def test_files_keep_their_places_beside_clips_that_are_at_the_model():
    stage = STAGES["qwen3_vl"]
    facts, frames, _ = patched(stage.profile.patches, 4, 0)
    pictures = [picture_file(noise(64, 64, 3, seed=seed)) for seed in (1, 2)]
    _, usual = prepare(
        stage, asking(0, 1, 2), [image(0), video(1, facts), image(2)], [pictures[0], frames, pictures[1]]
    )
    clip = replace(video(1, replace(facts, patch_grid=(2, 8, 8))), pixels_at_model=True)
    _, short = prepare(stage, asking(0, 1, 2), [image(0), clip, image(2)], pictures)
    assert np.array_equal(short["pixel_values"], usual["pixel_values"])


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(CUTTING)))
def test_families_that_do_more_than_ordering_get_frames(family):
    assert preparation(family).profile.patches is None


class Flipping:
    """A processor's video part that does one thing more, and not the same to all frames."""

    def _preprocess(self, videos, **options):
        return super()._preprocess([clip.flip(0) for clip in videos], **options)


def test_what_a_processor_does_is_looked_at_not_its_name():
    processor = FAMILIES["qwen3_vl"]()
    part = processor.video_processor
    part.__class__ = type("Qwen3VLVideoProcessor", (Flipping, type(part)), {})
    assert Preparation(tiny_checkpoint(processor), AppConfig()).profile.patches is None


def test_pictures_that_are_normalised_otherwise_keep_clips_here():
    processor = FAMILIES["qwen3_vl"]()
    processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    assert Preparation(tiny_checkpoint(processor), AppConfig()).profile.patches is None


@pytest.mark.parametrize(
    "config",
    [
        AppConfig(preprocessor=PreprocessorConfig(uint8_handoff=False)),
        AppConfig(decoder=DecoderConfig(resize=False)),
    ],
    ids=["floats", "sizes of the files"],
)
def test_the_operator_s_settings_come_first(config):
    assert preparation("qwen3_vl", config).profile.patches is None
