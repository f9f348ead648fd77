import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.video_utils import VideoMetadata

from deployments.preprocessor.timeline import sampled_fps, video_metadata
from tests.support.preparing import asking, decoded, frozen, noise, preparation, prepare, video
from tests.support.tiny_processors import FAMILIES

times_of_files = st.lists(st.floats(0, 5000), min_size=2, max_size=40).map(sorted)


def test_constant_rate_keeps_the_files_own_numbers() -> None:
    metadata = video_metadata(decoded((0, 30, 60, 149), 60, 80))
    assert metadata["fps"] == 30.0
    assert metadata["frames_indices"] == [0, 30, 60, 149]


@given(times=times_of_files)
def test_times_of_any_file_come_out_true(times: list[float]) -> None:
    metadata = VideoMetadata(**video_metadata(decoded(range(len(times)), 60, 80, times)))
    assert metadata.timestamps == pytest.approx(times, abs=0.0005)


@given(times=times_of_files.filter(lambda times: times[-1] - times[0] > 0.01))
def test_rate_of_the_frames_delivered_comes_out_true(times: list[float]) -> None:
    video = decoded(range(len(times)), 60, 80, times)
    assert sampled_fps(video) == pytest.approx((len(times) - 1) / (times[-1] - times[0]))
    assert VideoMetadata(**video_metadata(video)).sampled_fps == pytest.approx(sampled_fps(video), rel=1e-6)


def prompt_of(family: str, times: list[float]) -> str:
    facts = decoded(range(len(times)), 60, 80, times)
    payload = {"frames_THWC": frozen(noise(len(times), 60, 80, 3))}
    prepared, _ = prepare(preparation(family), asking(0, "What?"), [video(0, facts)], [payload])
    text: str = FAMILIES[family]().tokenizer.decode(prepared.token_ids)
    return text


def test_prompt_of_a_variable_rate_tells_the_times_of_the_file() -> None:
    """Frames at 0, 1, 4, 9, 16 and 25 seconds: index / fps would say something else."""
    times = [0.0, 1.0, 4.0, 9.0, 16.0, 25.0]
    qwen = prompt_of("qwen3_vl", times)
    assert [f"<{second} seconds>" in qwen for second in (0.5, 6.5, 20.5)] == [True] * 3
    gemma = prompt_of("gemma4", times)
    assert [f"00:{int(second):02d} " in gemma for second in times] == [True] * 6
    glm = prompt_of("glm4v", times)
    assert [f"<|end_of_image|>{second}<" in glm for second in (0, 4, 16)] == [True] * 3


def test_a_part_of_a_video_keeps_its_place_in_time() -> None:
    assert "<101.0 seconds>" in prompt_of("qwen3_vl", [100.0, 102.0, 104.0, 106.0])
