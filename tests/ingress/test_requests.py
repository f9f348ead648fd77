"""What a request may say, what becomes of it, and which words refuse it."""

from typing import Any

import pytest

from deployments.config import AppConfig, DecoderConfig, IngressConfig, MediaConfig, PreprocessorConfig
from deployments.errors import BadRequest, ModelNotFound, SluiceError, TooManyItems
from deployments.ingress.http.body import Body
from deployments.ingress.models import Models
from deployments.ingress.openai.chat_request import read_request
from deployments.ingress.request import GenerationRequest
from deployments.types import ChatMessage, ChatPart, DeclaredSize, Grammar, MediaKind, SamplingParams

URL = "https://media.example/x"
CONFIG = AppConfig(ingress=IngressConfig(max_images=2, max_tokens=100, max_list_frames=3))


def read(content: object = "hi", config: AppConfig = CONFIG, **fields: Any) -> GenerationRequest:
    document = {"model": "demo", "messages": [{"role": "user", "content": content}], **fields}
    return read_request(Body(document), Models(config))


def refusal(**document: Any) -> SluiceError:
    with pytest.raises(SluiceError) as caught:
        read(**document)
    return caught.value


def test_neutral_requests_have_neutral_parameters() -> None:
    assert read().params == SamplingParams()


def test_parameters_reach_the_model_as_they_were_said() -> None:
    job = read(
        max_completion_tokens=7,
        min_tokens=2,
        temperature=0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1,
        seed=-3,
        n=2,
        stop=["a", "b"],
        stop_token_ids=[4],
        ignore_eos=True,
        logprobs=True,
        top_logprobs=3,
        logit_bias={"5": -100},
        response_format={"type": "json_object"},
    )
    assert job.params == SamplingParams(
        max_tokens=7,
        min_tokens=2,
        temperature=0.0,
        top_p=0.5,
        top_k=0,
        min_p=0.1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repetition_penalty=1.1,
        seed=-3,
        n=2,
        stop=("a", "b"),
        stop_token_ids=(4,),
        ignore_eos=True,
        logprobs=3,
        logit_bias=((5, -100.0),),
        grammar=Grammar("json_schema", "{}"),
    )
    assert job.prompt.max_new_tokens == 7


def test_null_equals_absent_everywhere() -> None:
    fields = dict.fromkeys(("temperature", "tools", "stop", "seed", "stream", "fps", "response_format", "logit_bias"))
    assert read(stream_options={"include_usage": None}, **fields).params == SamplingParams()


def test_a_schema_is_handed_on_as_json_text() -> None:
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    job = read(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    text = '{"type":"object","properties":{"colour":{"type":"string"}},"additionalProperties":false}'
    assert job.params.grammar == Grammar("json_schema", text)


@pytest.mark.parametrize(
    "field",
    ["functions", "audio", "web_search_options", "chat_template", "best_of", "prompt_logprobs", "length_penalty"],
)
def test_fields_that_would_change_the_answer_are_refused_by_name(field: str) -> None:
    error = refusal(**{field: [{"x": 1}]})
    assert (error.param, error.message) == (field, f"`{field}` is not supported by this server")


def test_unsupported_fields_that_ask_for_nothing_are_accepted() -> None:
    read(tools=[], tool_choice="none", modalities=["text"], audio=None, functions=[], reasoning_effort=None)
    read(
        best_of=1, length_penalty=1.0, add_generation_prompt=True, skip_special_tokens=True, priority=0, verbosity="low"
    )
    assert refusal(modalities=["text", "audio"]).param == "modalities"
    assert refusal(best_of=2).param == "best_of"


def test_harmless_fields_are_accepted() -> None:
    read(user="me", metadata={"a": "b"}, store=True, service_tier="auto", parallel_tool_calls=False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"max_completion_tokens": 101}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ({"n": 9}, "n"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"fps": 0}, "fps"),
        ({"num_frames": -1}, "num_frames"),
        ({"mm_processor_kwargs": {"code_revision": "x"}}, "mm_processor_kwargs.code_revision"),
        ({"mm_processor_kwargs": {"do_sample_frames": True}}, "mm_processor_kwargs.do_sample_frames"),
        ({"mm_processor_kwargs": {"fps": "fast"}}, "mm_processor_kwargs.fps"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x"}] * 3000}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}, "messages[0].tool_calls[0].function"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert isinstance(error, BadRequest)
    assert error.param == param
    assert param.split("[")[0].split(".")[0] in error.message


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "hologram"}, "messages[0].content[0].type"),
        ({"image_url": {"url": URL}}, "messages[0].content[0].type"),
        ({"type": "image_url"}, "messages[0].content[0].image_url"),
        ({"type": "image_url", "image_url": {}}, "messages[0].content[0].image_url.url"),
        ({"type": "image_url", "image_url": {"url": URL, "detail": "best"}}, "messages[0].content[0].image_url.detail"),
        ({"type": "image_url", "image_url": {"url": URL}, "x": 1}, "messages[0].content[0].x"),
        ({"type": "text", "text": 5}, "messages[0].content[0].text"),
        ({"type": "video", "video": []}, "messages[0].content[0].video"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "messages[0].content[0].input_audio.data"),
        ({"type": "image_url", "image_url": {"url": "https://" + "x" * 9000}}, "messages[0].content[0]"),
        ("text", "messages[0].content[0]"),
    ],
)
def test_a_wrong_part_is_named(part: object, param: str) -> None:
    assert refusal(content=[part]).param == param


def test_messages_of_a_client_that_echoes_an_answer_are_understood() -> None:
    echoed = {"role": "assistant", "content": "red", "refusal": None, "annotations": [], "tool_calls": None}
    job = read(messages=[{"role": "developer", "content": "be short"}, echoed, {"role": "user", "content": "so?"}])
    assert job.prompt.messages == (
        ChatMessage("system", (ChatPart("be short"),)),
        ChatMessage("assistant", (ChatPart("red"),)),
        ChatMessage("user", (ChatPart("so?"),)),
    )


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": URL, "detail": "high"}}, MediaKind.IMAGE),
        ({"type": "image_url", "image_url": URL}, MediaKind.IMAGE),
        ({"type": "image", "image": URL}, MediaKind.IMAGE),
        ({"type": "input_image", "image_url": URL}, MediaKind.IMAGE),
        ({"type": "video_url", "video_url": {"url": URL}, "uuid": "7"}, MediaKind.VIDEO),
        ({"type": "video", "video": URL}, MediaKind.VIDEO),
        ({"type": "audio_url", "audio_url": {"url": URL}}, MediaKind.AUDIO),
        ({"type": "audio", "audio": URL}, MediaKind.AUDIO),
        ({"type": "audio", "audio": {"data": "UklGRg==", "format": "wav"}}, MediaKind.AUDIO),
        ({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "mp3"}}, MediaKind.AUDIO),
    ],
)
def test_all_spellings_of_a_part_mean_the_same(part: dict[str, Any], kind: MediaKind) -> None:
    (item,) = read([part]).items
    assert (item.kind, item.label, item.is_list) == (kind, "messages[0].content[0]", False)


def test_too_many_items_of_a_kind_are_refused_naming_the_first_too_many() -> None:
    with pytest.raises(TooManyItems) as caught:
        read([{"type": "image_url", "image_url": {"url": URL}}] * 3)
    assert caught.value.param == "messages[0].content[2]"
    assert "at most 2" in caught.value.message


def test_a_list_of_pictures_is_bounded() -> None:
    assert len(read([{"type": "video", "video": [URL] * 3}]).items[0].sources) == 3
    with pytest.raises(TooManyItems):
        read([{"type": "video", "video": [URL] * 4}])


def test_another_model_does_not_exist() -> None:
    with pytest.raises(ModelNotFound, match="demo"):
        read(model="gpt-9")


def test_processor_options_are_taken_apart() -> None:
    options = {"fps": 1.5, "max_pixels": 50_000, "use_audio_in_video": True}
    job = read(mm_processor_kwargs=options)
    assert job.frames.fps == 1.5
    assert job.prompt.processor_kwargs == (("max_pixels", 50_000),)
    assert job.prompt.use_audio_in_video


def test_processor_options_are_those_that_the_server_allows() -> None:
    strict = AppConfig(preprocessor=PreprocessorConfig(allowed_processor_kwargs=()))
    with pytest.raises(BadRequest, match="allowed are fps"):
        read(config=strict, mm_processor_kwargs={"max_pixels": 5})


def test_top_level_frame_options_win_over_processor_options() -> None:
    job = read(num_frames=8, mm_processor_kwargs={"fps": 1.5})
    assert (job.frames.num_frames, job.frames.fps) == (8, None)


def test_configured_names_and_lengths_hold() -> None:
    config = AppConfig(served_model_name="mine", ingress=IngressConfig(default_max_tokens=9), decoder=DecoderConfig())
    assert read(config=config, model="mine").params.max_tokens == 9


SENT = {"type": "image_embeds", "image_embeds": "QUJD", "width": 8, "height": 4}


def test_embeddings_are_refused_by_name_where_they_are_not_allowed() -> None:
    with pytest.raises(BadRequest, match=r"media\.max_embeds_bytes") as caught:
        read([SENT])
    assert caught.value.param == "messages[0].content[0]"


def test_embeddings_travel_as_files_of_their_own_kind() -> None:
    config = AppConfig(media=MediaConfig(max_embeds_bytes=100))
    (item,) = read([SENT], config).items
    (source,) = item.sources
    assert (item.kind, item.embeds, source.item.embeds, source.item.url) == (MediaKind.IMAGE, True, True, None)
    assert item.declared == DeclaredSize(width=8, height=4)
    assert source.data == b"data:;base64,QUJD"
    with pytest.raises(BadRequest, match="duration_s"):
        read([{**SENT, "duration_s": 1.0}], config)


def test_sizes_of_parts_are_for_those_who_only_count() -> None:
    part = {"type": "image_url", "image_url": {"url": URL}, "width": 8, "height": 4}
    document = {"model": "demo", "messages": [{"role": "user", "content": [part]}]}
    (item,) = read_request(Body(document), Models(CONFIG), counts=True).items
    assert (item.sources, item.declared) == ((), DeclaredSize(width=8, height=4))
    with pytest.raises(BadRequest, match="width"):
        read([part])


def test_media_io_options_pass_where_they_say_what_is_done_anyway() -> None:
    neutral = {"image": {"image_mode": "RGB"}, "audio": {"mono": True}, "video": {"num_frames": 3}}
    assert read(media_io_kwargs=neutral).frames.num_frames == 3
    with pytest.raises(BadRequest) as caught:
        read(media_io_kwargs={"image": {"image_mode": "L"}})
    assert caught.value.param == "media_io_kwargs.image.image_mode"
