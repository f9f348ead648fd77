"""Training sees what serving makes: the fast towers and the hand-made sequences equal the model and its processor."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM

from deployments.demo import CHECKPOINT_DIR
from deployments.demo.blueprint import load_tokenizer, make_processor, video_size
from deployments.demo.dialogue.conversations import Sheet, Turn, random_conversation
from deployments.demo.dialogue.truth import Subject
from deployments.demo.synth.drawing import coverage, draw_clip
from deployments.demo.synth.grounds import Ground, GroundKind
from deployments.demo.synth.scenes import Colour, Direction, Scene, Shape, random_scene
from deployments.demo.synth.sounds import waveform
from deployments.demo.training.audibles import Audible, random_audible
from deployments.demo.training.audio import token_truth
from deployments.demo.training.batches import collate, random_sequence
from deployments.demo.training.glimpses import FIRST, HELD, fresh_pools
from deployments.demo.training.language import answer_loss, language_head
from deployments.demo.training.optimiser import Kept, Pace, optimise
from deployments.demo.training.pools import COLOURS, DIRECTIONS, SHAPES, Pairs, make_pools, random_pairs
from deployments.demo.training.sequences import IGNORED, TEXT, Encoded, Sequencer
from deployments.demo.training.sources import Heard, Seen, remember
from deployments.demo.training.towers import PATCH, hear, patchify, see
from deployments.demo.training.vision import dense_loss
from deployments.demo.training.visuals import Visual, random_glimpse, random_visual
from deployments.demo.training.workers import make_many


@pytest.fixture(scope="module")
def processor():  # type: ignore[no-untyped-def]
    return make_processor(load_tokenizer(CHECKPOINT_DIR))


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    return AutoModelForMultimodalLM.from_pretrained(CHECKPOINT_DIR).eval()


def test_batched_vision_tower_equals_the_models_own(model, processor) -> None:  # type: ignore[no-untyped-def]
    frames = np.random.default_rng(0).integers(0, 255, (4, 84, 112, 3), np.uint8)
    options = {"size": video_size(), "do_sample_frames": False, "fps": 2.0}
    inputs = processor(text=["<|VIDEO|>"], videos=[frames], videos_kwargs=options, return_tensors="pt")
    pairs = patchify(torch.from_numpy(frames.transpose(0, 3, 1, 2).reshape(2, 2, 3, 84, 112)))
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
    heard = _heard(audible)
    items = [Subject(clip.scene, audible.sound if with_sound else None, 1.0), Subject(picture.scene)]
    encoded = [Encoded(_seen(clip), heard if with_sound else None, frame_s), Encoded(_seen(picture))]
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
    rng, sequencer, tagger = np.random.default_rng(8), Sequencer(model, processor), language_head(model)
    pictures = [random_visual(rng, clip=False) for _ in range(2)]
    table, source = remember(model, pictures, [], rng, views=1)
    items, encoded = [Subject(one.scene) for one in source.pictures], [Encoded(one) for one in source.pictures]
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
        losses.append(_plain_loss(model, alone, table))
        weights.append(alone.weights_L.sum().item())
    with torch.no_grad():
        loss = answer_loss(model, tagger, table, collate([together]))[1]["loss"].item()
        # Beside a longer one it is padded, which must change nothing.
        longer = sequencer.sheet(Sheet(None, tuple(exchanges * 2), tuple(items)), encoded)
        beside = answer_loss(model, tagger, table, collate([together, longer]))[1]["loss"].item()
    assert loss == pytest.approx(np.average(losses, weights=weights), rel=1e-4)
    assert beside == pytest.approx(loss, rel=1e-4)


def test_tokens_and_answers_carry_the_number_of_their_item_among_its_kind(model, processor) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(9)
    visuals = [random_visual(rng, clip=False) for _ in range(2)]
    _, source = remember(model, visuals, [random_audible(rng, processor.feature_extractor)], rng, views=1)
    (picture, other), (sound,) = source.pictures, source.sounds
    items = (Subject(picture.scene), Subject(sound=sound.sound), Subject(other.scene))
    exchanges = tuple(Turn("What is it?", "red", about) for about in (0, 1, 2, None))
    encoded = [Encoded(picture), Encoded(heard=sound), Encoded(other)]
    sheet = Sequencer(model, processor).sheet(Sheet("Be brief.", exchanges, items), encoded)
    for number, one in enumerate((picture, sound, other), start=1):
        assert sheet.rows_L[sheet.items_L == number].tolist() == list(one.rows)
    assert (sheet.rows_L[sheet.items_L == 0] == TEXT).all()
    for number, tag in ((1, 1), (2, 1), (3, 2)):
        assert set(sheet.tags_L[sheet.items_L == number].tolist()) == {tag}
        assert set(sheet.tags_L[sheet.about_L == number].tolist()) == {tag}
    assert set(sheet.tags_L[sheet.branches_L == 4].tolist()) == {0}


@pytest.mark.parametrize("clip", [False, True])
def test_a_pools_visual_looks_like_its_scene(clip: bool) -> None:
    rng = np.random.default_rng(4)
    visuals = [random_visual(rng, clip) for _ in range(20)]
    seen = 0
    for visual in visuals:
        assert visual.covered.shape[:2] == (len(visual.scene.figures), len(visual.frames_TCHW))
        for figure, covered in zip(visual.scene.figures, visual.covered, strict=True):
            where = np.argwhere(covered[0] > 0.3) if figure.stroke is None else []
            for down, across in where:
                token = visual.frames_TCHW[0, :, down * 28 : down * 28 + 28, across * 28 : across * 28 + 28]
                away = np.abs(token.astype(int) - np.reshape(figure.paint, (3, 1, 1))).max(0)
                assert (away < 40).mean() > 0.5 * covered[0, down, across]
                seen += 1
    assert seen


def test_pairs_carry_the_truth_through_mirrors_and_reversal() -> None:
    rng = np.random.default_rng(5)
    scene = random_scene(rng, Colour.WHITE, Shape.CIRCLE, Direction.LEFT, GroundKind.DARK, (0.2, 0.25))
    frames = draw_clip(scene, 112, 140, np.linspace(0, 1, 8)).transpose(0, 3, 1, 2)
    covered = np.stack([coverage(scene.figures[0], 112, 140, moment) for moment in np.linspace(0, 1, 8)])
    shares = covered.reshape(1, 8, 4, 28, 5, 28).mean((3, 5))
    torch.manual_seed(0)
    ((pool, _),) = make_pools([Visual(scene, frames, shares.astype(np.float16))], "cpu")
    pairs = random_pairs(pool, 60)
    found = set()
    for both, directions_F, shares_FN in zip(pairs.frames_BTCHW, pairs.directions_BF, pairs.shares_BFN, strict=True):
        moved = [float(torch.nonzero(one[0] > 150)[:, 1].float().mean()) for one in both]
        direction = DIRECTIONS[int(directions_F[0])]
        assert direction is (Direction.LEFT if moved[1] < moved[0] else Direction.RIGHT)
        found.add(direction)
        bright = (both[:, 0] > 150).float().view(2, 4, 28, 5, 28).mean((2, 4)).amax(0).flatten()
        assert (bright - shares_FN[0]).abs().max() < 0.1
        assert not shares_FN[1].any()
    assert found == {Direction.LEFT, Direction.RIGHT}


def test_the_vision_tower_meets_ever_fresh_glimpses() -> None:
    made = itertools.count()

    def chunks() -> Iterator[list[Visual]]:
        plain = np.zeros((1, 3, 28, 28), np.uint8), np.zeros((0, 1, 1, 1), np.float16)
        while True:
            grounds = [Ground(GroundKind.DARK, ((0, 0, 0),), next(made)) for _ in range(256)]
            yield [Visual(Scene(ground, ()), *plain) for ground in grounds]

    steps = fresh_pools(chunks(), 64, "cpu")
    sizes = [sum(len(pool.first_V) for pool in next(steps)) for _ in range(8 * 20)]
    assert sizes[0] == FIRST
    assert sizes[-1] == HELD == max(sizes)
    # What was taken from the source: no more than the steps called for.
    assert next(made) == FIRST + 64 * (len(sizes) - 8)


def test_a_glimpse_is_a_picture_or_two_frames_that_follow_each_other() -> None:
    rng = np.random.default_rng(12)
    some = [random_glimpse(rng) for _ in range(40)]
    assert {len(one.frames_TCHW) for one in some} == {1, 2}
    assert {len(one.scene.figures) for one in some} == {0, 1, 2}
    for one in some:
        frames, _, height, width = one.frames_TCHW.shape
        assert one.covered.shape == (len(one.scene.figures), frames, height // 28, width // 28)


def test_a_token_that_shows_two_shapes_is_to_tell_both() -> None:
    red, blue = COLOURS.index(Colour.RED), COLOURS.index(Colour.BLUE)
    circle, square = SHAPES.index(Shape.CIRCLE), SHAPES.index(Shape.SQUARE)
    still = torch.full((1, 2), DIRECTIONS.index(Direction.STILL))
    shares = torch.tensor([[[0.3], [0.2]]])
    pairs = Pairs(torch.empty(0), shares, torch.tensor([[red, blue]]), torch.tensor([[circle, square]]), still)

    def told(*colours: int, swapped: bool = False) -> dict[str, float]:
        colour, shape = torch.zeros(len(COLOURS) + 1), torch.zeros(len(COLOURS), len(SHAPES))
        colour[list(colours)] = 9
        shape[red, square if swapped else circle] = shape[blue, circle if swapped else square] = 9
        direction = 9 * torch.nn.functional.one_hot(still[0, 0], len(DIRECTIONS))
        answer = torch.cat((colour, shape.flatten(), direction, torch.tensor([0.5])))[None, None]
        return {name: float(figure) for name, figure in dense_loss(answer, pairs)[1].items()}

    both = told(red, blue)
    assert both["loss"] < 0.01
    assert (both["colour"], both["shape"], both["direction"]) == (1, 1, 1)
    assert told(red)["loss"] > 0.5
    assert told(red, blue, swapped=True)["shape"] == 0


def test_workers_make_what_one_process_makes() -> None:
    alone, helped = ([one.scene for one in make_many("clips", _picture, 20, 3, workers)] for workers in (0, 2))
    assert sorted(map(str, alone)) == sorted(map(str, helped))
    assert len(alone) == 32


def test_training_that_was_cut_off_is_taken_up_where_it_was(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def losses(module: torch.nn.Linear, pace: Pace) -> list[float]:
        met: list[float] = []

        def loss_of_step():  # type: ignore[no-untyped-def]
            loss = (module(torch.ones(1, 2)) - 3).square().sum()
            met.append(loss.item())
            return loss, {"loss": loss.detach()}

        optimise("test", Kept(tmp_path / "test.pt", module), loss_of_step, pace, peak_rate=0.05)
        return met

    first = losses(module := torch.nn.Linear(2, 1), Pace(steps=100))
    assert len(first) == 100
    Kept(tmp_path / "test.pt", module).save(progress=0.5)
    second = losses(torch.nn.Linear(2, 1), Pace(steps=100))
    assert len(second) == 50
    assert second[0] == pytest.approx(float((module(torch.ones(1, 2)) - 3).square()), abs=1e-4)
    assert losses(torch.nn.Linear(2, 1), Pace(steps=100)) == []


def test_half_precision_reads_the_same_sheet(model, processor) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(10)
    table, source = remember(model, [random_visual(rng, clip=True) for _ in range(3)], [], rng, views=1)
    source = replace(source, pictures=source.clips, sounds=[])
    mixture = {("clip",): 1.0}
    sequence = random_sequence(rng, Sequencer(model, processor), source, wide=False, mixture=mixture)
    head, batch = language_head(model), collate([sequence])
    with torch.no_grad():
        whole = answer_loss(model, head, table, batch)[0].item()
        with torch.autocast("cpu", torch.bfloat16):
            half = answer_loss(model, head, table, batch)[0].item()
    assert half == pytest.approx(whole, rel=0.1)


def _picture(rng: np.random.Generator) -> Visual:
    return random_visual(rng, clip=False)


def test_beeps_are_counted_where_they_sound(processor) -> None:  # type: ignore[no-untyped-def]
    audible: Audible = random_audible(np.random.default_rng(6), processor.feature_extractor)
    truth = token_truth(audible.sound, audible.mel_MF.shape[1] // 4)
    loudness = audible.mel_MF[:, : len(truth) * 4].max(0).reshape(-1, 4).mean(1)
    playing = truth[:, 0] > 0
    assert loudness[playing.numpy()].mean() > loudness[~playing.numpy()].mean() + 0.3
    assert truth[:, 1].max() == audible.sound.beeps


def _seen(visual: Visual) -> Seen:
    frames, height, width = len(visual.frames_TCHW), *visual.frames_TCHW.shape[2:]
    pairs = -(-frames // 2)
    grid = (pairs, height // PATCH, width // PATCH)
    return Seen(visual.scene, range(pairs * grid[1] * grid[2] // 4), grid, frames)


def _heard(audible: Audible) -> Heard:
    frames = audible.mel_MF.shape[1]
    return Heard(audible.sound, range(((frames - 1) // 2 + 1) // 2), frames)


def _positions(model, ids, encoded):  # type: ignore[no-untyped-def]
    grids = torch.tensor([one.seen.grid_thw for one in encoded])
    return model.model.get_rope_index(ids[None], image_grid_thw=grids, attention_mask=torch.ones_like(ids)[None])[0][
        :, 0
    ]


def _plain_loss(model, sequence, table) -> float:  # type: ignore[no-untyped-def]
    labels, shown = sequence.labels_L, sequence.rows_L >= 0
    embeds = model.get_input_embeddings()(sequence.ids_L).clone().detach()
    embeds[shown] = table[sequence.rows_L[shown]]
    with torch.no_grad():
        hidden = model.model.language_model(inputs_embeds=embeds[None], position_ids=sequence.positions_3L[:, None])
        losses = torch.nn.functional.cross_entropy(
            model.lm_head(hidden[0][0]), labels, ignore_index=IGNORED, reduction="none"
        )
    return float((losses * sequence.weights_L).sum() / sequence.weights_L.sum())
