import base64
import io
import json
from collections import Counter

import av
import pytest
import soundfile
from PIL import Image

from benchmarks.kit.load.media import MediaSpec, distinct
from benchmarks.kit.load.workload import Workload, WorkloadSpec

SMALL = "text=0.5,48x32=0.3,64x48@1s=0.1,sound@1s=0.1"


def requests(count, **spec):
    workload = Workload(WorkloadSpec(mix=SMALL, **spec), "m", lambda kind, data: f"http://host/{len(data)}")
    return [workload.next() for _ in range(count)]


def data_urls(batch):
    contents = [json.loads(request.body)["messages"][0]["content"] for request in batch]
    parts = [content[0] for content in contents if content[0]["type"] != "text"]
    return [part[part["type"]]["url"] for part in parts]


def test_same_seed_gives_the_same_bodies():
    assert requests(20, seed=5) == requests(20, seed=5)
    assert requests(20, seed=5) != requests(20, seed=6)


def test_kinds_come_in_the_shares_of_the_mix():
    kinds = Counter(request.kind for request in requests(2000, transport="url"))
    assert abs(kinds["text"] / 2000 - 0.5) < 0.05
    assert abs(kinds["image"] / 2000 - 0.3) < 0.05
    assert kinds["video"] > 100
    assert kinds["audio"] > 100


def test_a_medium_alone_is_a_mix():
    assert WorkloadSpec(mix="640x480").shares() == {"640x480": 1.0}
    assert WorkloadSpec(mix="text, 640x480").shares() == {"text": 0.5, "640x480": 0.5}


def test_a_request_may_hold_several():
    request = Workload(WorkloadSpec(mix="4*48x32"), "m").next()
    parts = json.loads(request.body)["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url"] * 4 + ["text"]
    assert len({part["image_url"]["url"] for part in parts[:4]}) == 4


def test_bodies_are_streamed_chat_completions_of_an_exact_length():
    for request in requests(10, max_tokens=7):
        body = json.loads(request.body)
        assert body["model"] == "m"
        assert body["max_tokens"] == 7
        assert body["ignore_eos"]
        assert body["stream"]
        assert body["stream_options"] == {"include_usage": True}
        assert body["messages"][0]["content"][-1]["type"] == "text"


def test_distinct_media_never_repeat_and_repeated_ones_do():
    urls = data_urls(requests(300))
    assert len(set(urls)) == len(urls)
    repeated = data_urls(requests(300, distinct_media=False))
    assert len(set(repeated)) < len(repeated) / 2


def test_a_later_run_does_not_repeat_an_earlier_ones_media():
    spec = WorkloadSpec(mix="48x32=1")
    earlier, later = Workload(spec, "m"), Workload(spec, "m", first=50)
    urls = data_urls([earlier.next() for _ in range(50)] + [later.next() for _ in range(50)])
    assert len(set(urls)) == 100


def test_marked_files_still_decode_to_what_they_were():
    picture = MediaSpec.parse("48x32").make(0, 0)
    marked = distinct("image", picture, 9)
    assert Image.open(io.BytesIO(marked)).tobytes() == Image.open(io.BytesIO(picture)).tobytes()
    with av.open(io.BytesIO(distinct("video", MediaSpec.parse("64x48@1s").make(0, 0), 9))) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 30
    samples, rate = soundfile.read(io.BytesIO(distinct("audio", MediaSpec.parse("sound@1s").make(0, 0), 9)))
    assert (len(samples), rate) == (16_000, 16_000)


def test_media_in_data_urls_are_the_kind_they_say():
    for url in data_urls(requests(40)):
        head, payload = url.split(",")
        data = base64.b64decode(payload, validate=True)
        magic = {"image/jpeg": b"\xff\xd8\xff", "video/mp4": b"ftyp", "audio/wav": b"RIFF"}
        assert magic[head.removeprefix("data:").removesuffix(";base64")] in data[:12]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("640x480", MediaSpec("image", 640, 480)),
        ("360p@5s", MediaSpec("video", 640, 360, 5)),
        ("374x374@30s", MediaSpec("video", 374, 374, 30)),
        ("sound@2.5s", MediaSpec("audio", seconds=2.5)),
    ],
)
def test_media_are_written_short(text, spec):
    assert MediaSpec.parse(text) == spec


@pytest.mark.parametrize("mix", ["text=1,film=2", "640x=1", "sound=1", "4*film=1"])
def test_a_mix_that_cannot_be_read_is_refused(mix):
    with pytest.raises(ValueError, match="write 640x480"):
        WorkloadSpec(mix=mix).shares()
