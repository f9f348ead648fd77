"""Training sees what serving makes: the fast towers and the hand-made sequences equal the model and its processor."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from deployments.demo import CHECKPOINT_DIR
from deployments.demo.blueprint import video_size
from deployments.demo.dialogue.conversations import Sheet, Turn, random_conversation
from deployments.demo.dialogue.truth import Subject
from deployments.demo.synth.sounds import waveform
from deployments.demo.training.audibles import Audible, random_audible
from deployments.demo.training.audio import token_truth
from deployments.demo.training.sequences import IGNORED, TAGS, Encoded, Sequencer, answer_loss
from deployments.demo.training.sources import Seen, listen
from deployments.demo.training.towers import PATCH, hear, patchify, see
from deployments.demo.training.vision import random_pairs
from deployments.demo.training.visuals import Visual, random_visual


@pytest.fixture(scope="module")
def processor():  # type: ignore[no-untyped-def]
    return AutoProcessor.from_pretrained(CHECKPOINT_DIR)


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    return AutoModelForMultimodalLM.from_pretrained(CHECKPOINT_DIR).eval()


def test_batched_vision_tower_equals_the_models_own(model, processor) -> None:  # type: ignore[no-untyped-def]
    frames = np.random.default_rng(0).integers(0, 255, (4, 84, 112, 3), np.uint8)
    options = {"size": video_size(), "do_sample_frames": False, "fps": 2.0}
    inputs = processor(text=["<|VIDEO|>"], videos=[frames], videos_kwargs=options, return_tensors="pt")
    pairs = patchify(frames.transpose(0, 3, 1, 2).reshape(2, 2, 3, 84, 112))
    torch.testing.assert_close(pairs.flatten(0, 1), inputs["pixel_values_videos"])
    with torch.no_grad():
        outputs = model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True)
        tokens = see(model, pairs, 84, 112).flatten(0, 1)
    torch.testing.assert_close(tokens, torch.cat(outputs.pooler_output), atol=1e-4, rtol=1e-4)


def test_batched_audio_tower_equals_the_models_own(model, processor) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    waves = [rng.normal(0, 0.1, samples).astype(np.float32) for samples in (32000, 48170, 5000)]
    inputs = processor(text=["<|AUDIO|>" * 3], audio=waves, return_tensors="pt")
    features, mask = inputs["input_features"], inputs["feature_attention_mask"]
    lengths = mask.sum(1).tolist()
    with torch.no_grad():
        expected = model.get_audio_features(features, mask, return_dict=True).last_hidden_state
        tokens = torch.cat(hear(model, features[:, :, : max(lengths)], lengths))
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("with_sound", [False, True])
def test_sequences_equal_what_the_processor_makes(model, processor, with_sound: bool) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(2)
    clip, picture = random_visual(rng, clip=True), random_visual(rng, clip=False)
    audible = random_audible(rng, processor.feature_extractor)
    frame_s = audible.sound.duration_s / len(clip.frames_TCHW)
    heard = listen(model, audible)
    items = [Subject(clip.scene, audible.sound if with_sound else None, 1.0), Subject(picture.scene)]
    encoded = [Encoded(_seen(model, clip), heard if with_sound else None, frame_s), Encoded(_seen(model, picture))]
    options = {"load_audio_from_video": True, "audio_from_video_indices": [0]} if with_sound else {}
    if not with_sound:
        items.append(Subject(sound=audible.sound))
        encoded.append(Encoded(heard=heard))
    conversation = random_conversation(np.random.default_rng(3), items, turns=4)
    sequence = Sequencer(model, processor).sequence(conversation, encoded)
    inputs = processor(
        text=[processor.apply_chat_template(conversation.messages, tokenize=False)],
        images=[picture.frames_TCHW[0].transpose(1, 2, 0)],
        videos=[clip.frames_TCHW.transpose(0, 2, 3, 1)],
        audio=[waveform(audible.sound, 16000, rng)],
        videos_kwargs={"do_sample_frames": False, "fps": 1 / frame_s, "size": video_size()},
        return_tensors="pt",
        **options,
    )
    assert sequence.ids_L.tolist() == inputs["input_ids"][0].tolist()
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"],
        inputs["image_grid_thw"],
        inputs["video_grid_thw"],
        inputs["attention_mask"],
        with_sound,
        inputs["feature_attention_mask"].sum(1),
        inputs["video_second_per_grid"],
    )
    assert torch.equal(sequence.positions_3L, positions[:, 0])
    learnt = processor.tokenizer.decode(sequence.labels_L[sequence.labels_L != IGNORED])
    answers = [message["content"] for message in conversation.messages if message["role"] == "assistant"]
    assert learnt == "".join(f"{answer}<|im_end|>" for answer in answers)


def test_the_questions_of_a_sheet_are_read_as_if_each_were_asked_alone(model, processor) -> None:  # type: ignore[no-untyped-def]
    rng, sequencer, tagger = np.random.default_rng(8), Sequencer(model, processor), torch.nn.Linear(128, TAGS)
    pictures = [random_visual(rng, clip=False) for _ in range(2)]
    items, encoded = [Subject(one.scene) for one in pictures], [Encoded(_seen(model, one)) for one in pictures]
    exchanges = [
        Turn("What colour is the shape in the first picture?", "red", 0),
        Turn("Describe the second picture.", "A blue circle.", 1),
        Turn("Hello!", "I only know simple shapes and tones.", None),
    ]
    together = sequencer.sheet(Sheet(None, tuple(exchanges), tuple(items)), encoded)
    losses, weights = [], []
    for exchange in exchanges:
        alone = sequencer.sheet(Sheet(None, (exchange,), tuple(items)), encoded)
        assert torch.equal(alone.positions_3L, _positions(model, alone.ids_L, encoded))
        losses.append(_plain_loss(model, alone))
        weights.append(alone.weights_L.sum().item())
    with torch.no_grad():
        loss = answer_loss(model, tagger, [together])[1]["loss"]
    assert loss == pytest.approx(np.average(losses, weights=weights), rel=1e-4)


def test_tokens_and_answers_carry_the_number_of_their_item_among_its_kind(model, processor) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(9)
    picture, other = (_seen(model, random_visual(rng, clip=False)) for _ in range(2))
    sound = listen(model, random_audible(rng, processor.feature_extractor))
    items = (Subject(picture.scene), Subject(sound=sound.sound), Subject(other.scene))
    exchanges = tuple(Turn("What is it?", "red", about) for about in (0, 1, 2, None))
    encoded = [Encoded(picture), Encoded(heard=sound), Encoded(other)]
    sheet = Sequencer(model, processor).sheet(Sheet("Be brief.", exchanges, items), encoded)
    sizes = [len(one.tokens_ND) for one in (picture, sound, other)]
    assert torch.bincount(sheet.items_L)[1:].tolist() == sizes
    for number, tag in ((1, 1), (2, 1), (3, 2)):
        assert set(sheet.tags_L[sheet.items_L == number].tolist()) == {tag}
        assert set(sheet.tags_L[sheet.about_L == number].tolist()) == {tag}
    assert set(sheet.tags_L[sheet.branches_L == 4].tolist()) == {0}


def test_a_pools_clip_looks_like_its_scene() -> None:
    visual = random_visual(np.random.default_rng(4), clip=True)
    assert len(visual.frames_TCHW) == len(visual.covered)
    where = np.argwhere(visual.covered[0] > 0.95)
    for down, across in where:
        token = visual.frames_TCHW[0, :, down * 28 : down * 28 + 28, across * 28 : across * 28 + 28]
        assert np.abs(token.mean((1, 2)) - visual.scene.paint).max() < 25


def test_pairs_carry_the_truth_through_mirrors_and_reversal() -> None:
    rng = np.random.default_rng(5)
    visual = next(v for v in (random_visual(rng, clip=True) for _ in range(99)) if v.scene.direction == "left")
    pairs = random_pairs(rng, [visual], 60)
    for frames, direction in zip(pairs.frames_BTCHW.astype(float), pairs.direction_B, strict=True):
        bright = frames.max(1) > 110
        moved = [np.nonzero(one)[1].mean() for one in bright]
        shift = moved[1] - moved[0]
        assert int(direction) == (4 if abs(shift) < 0.2 else 0 if shift < 0 else 1)


def test_beeps_are_counted_where_they_sound(processor) -> None:  # type: ignore[no-untyped-def]
    audible: Audible = random_audible(np.random.default_rng(6), processor.feature_extractor)
    truth = token_truth(audible.sound, audible.mel_MF.shape[1] // 4)
    loudness = audible.mel_MF[:, : len(truth) * 4].max(0).reshape(-1, 4).mean(1)
    playing = truth[:, 0] > 0
    assert loudness[playing.numpy()].mean() > loudness[~playing.numpy()].mean() + 0.3
    assert truth[:, 1].max() == audible.sound.beeps


def _seen(model, visual: Visual) -> Seen:  # type: ignore[no-untyped-def]
    frames = visual.frames_TCHW
    frames = np.concatenate((frames, frames[-1:])) if len(frames) % 2 else frames
    height, width = frames.shape[2:]
    pairs = frames.reshape(-1, 2, 3, height, width)
    with torch.no_grad():
        tokens = see(model, patchify(pairs), height, width).flatten(0, 1)
    return Seen(visual.scene, tokens, (len(pairs), height // PATCH, width // PATCH), len(visual.frames_TCHW))


def _positions(model, ids, encoded):  # type: ignore[no-untyped-def]
    grids = torch.tensor([one.seen.grid_thw for one in encoded])
    return model.model.get_rope_index(ids[None], image_grid_thw=grids, attention_mask=torch.ones_like(ids)[None])[0][
        :, 0
    ]


def _plain_loss(model, sequence) -> float:  # type: ignore[no-untyped-def]
    ids, labels = sequence.ids_L[None], sequence.labels_L
    embeds = model.get_input_embeddings()(ids)
    for token, features in sequence.features.items():
        embeds = embeds.masked_scatter((ids == token)[..., None], features)
    with torch.no_grad():
        hidden = model.model.language_model(inputs_embeds=embeds, position_ids=sequence.positions_3L[:, None])[0][0]
        losses = torch.nn.functional.cross_entropy(
            model.lm_head(hidden), labels, ignore_index=IGNORED, reduction="none"
        )
    return float((losses * sequence.weights_L).sum() / sequence.weights_L.sum())
