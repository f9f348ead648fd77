"""The official client of OpenAI."""

import json
import time
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.clients.conftest import PARAMETERS, SPELT, TOOL
from tests.support.media_files import make_picture, make_sound


class Answer(BaseModel):
    yes: bool


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=120) as client:
        yield client


def test_a_required_call_is_valid_and_its_result_goes_back(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "look"}]
    first = client.chat.completions.create(model="demo", messages=messages, tools=[TOOL], tool_choice="required")
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls"
    (call, *_) = choice.message.tool_calls
    assert json.loads(call.function.arguments)["x"] in (1, 2, 3)
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "a red circle"}]
    second = client.chat.completions.create(model="demo", messages=messages, tools=[TOOL], max_tokens=8)
    assert second.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_call_of_the_models_own_accord_is_streamed_in_pieces(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "look"}], tools=[TOOL], stream=True, extra_body=SPELT
    )
    name, arguments, content, finish = "", "", "", None
    for chunk in stream:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            name += call.function.name or ""
            arguments += call.function.arguments or ""
        finish = choice.finish_reason or finish
    assert (name, json.loads(arguments), content, finish) == ("look", {"x": 2}, "I look.", "tool_calls")


def test_a_named_function_is_called(client: openai.OpenAI) -> None:
    other = {"type": "function", "function": {"name": "beep", "parameters": {"type": "object", "properties": {}}}}
    choice = {"type": "function", "function": {"name": "beep"}}
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "look"}], tools=[TOOL, other], tool_choice=choice
    )
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("beep", "{}")


def test_parsed_answers_have_their_type(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "is it red?"}]
    answer = client.chat.completions.parse(model="demo", messages=messages, response_format=Answer)
    assert isinstance(answer.choices[0].message.parsed, Answer)
    response = client.responses.parse(model="demo", input="is it red?", text_format=Answer)
    assert isinstance(response.output_parsed, Answer)


def test_responses_stream_call_and_go_on(client: openai.OpenAI) -> None:
    tool = {"type": "function", "name": "look", "parameters": PARAMETERS, "strict": True}
    with client.responses.stream(model="demo", input="look", tools=[tool], tool_choice="required") as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    (call, *_) = first.output
    assert json.loads(call.arguments)["x"] in (1, 2, 3)
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "a red circle"} for item in first.output
    ]
    second = client.responses.create(
        model="demo", input=results, previous_response_id=first.id, tools=[tool], max_output_tokens=16
    )
    assert second.status in ("completed", "incomplete")
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(first.id).id == first.id


def test_media_are_seen_by_responses(client: openai.OpenAI) -> None:
    import base64

    picture = "data:image/png;base64," + base64.b64encode(make_picture("PNG")).decode()
    content = [{"type": "input_text", "text": "what colour?"}, {"type": "input_image", "image_url": picture}]
    response = client.responses.create(model="demo", input=[{"role": "user", "content": content}], max_output_tokens=8)
    assert response.output_text


def test_completions_score_their_prompt_as_the_model_would(client: openai.OpenAI) -> None:
    scored = client.completions.create(model="demo", prompt="the circle is red", max_tokens=1, echo=True, logprobs=1)
    logprobs = scored.choices[0].logprobs
    assert "".join(logprobs.tokens).startswith("the circle is red")
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    head = scored.usage.prompt_tokens - 1
    shorter = client.completions.create(
        model="demo", prompt="".join(logprobs.tokens[:head]), max_tokens=1, temperature=0, logprobs=1
    )
    best = shorter.choices[0].logprobs
    assert max(logprobs.top_logprobs[head].values()) == pytest.approx(best.token_logprobs[0], abs=1e-3)
    assert scored.usage.completion_tokens == 1


def test_a_batch_is_answered(client: openai.OpenAI) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    lines = [{"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(4)]
    text = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", text), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    give_up = time.monotonic() + 60
    while batch.status != "completed":
        assert time.monotonic() < give_up, batch
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert (batch.request_counts.total, batch.request_counts.completed) == (4, 4)
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert {answer["custom_id"] for answer in answers} == {"0", "1", "2", "3"}
    assert all(answer["response"]["body"]["usage"]["completion_tokens"] > 0 for answer in answers)
    assert client.batches.cancel(batch.id).status == "completed"
    assert client.files.delete(file.id).deleted


def test_a_recording_is_taken(client: openai.OpenAI) -> None:
    sound = ("beep.wav", make_sound("wav", seconds=1.0))
    assert isinstance(client.audio.transcriptions.create(model="demo", file=sound).text, str)


def test_logprobs_put_together_are_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "hi"}], max_tokens=12, logprobs=True, temperature=0
    )
    (choice,) = answer.choices
    raw = bytes(byte for token in choice.logprobs.content for byte in token.bytes)
    assert raw.decode(errors="ignore").removesuffix("<|im_end|>") == choice.message.content


def test_choices_and_words_that_may_not_be_said(client: openai.OpenAI) -> None:
    ask = {"model": "demo", "messages": [{"role": "user", "content": "is it red?"}], "temperature": 0, "max_tokens": 12}
    free = client.chat.completions.create(**ask).choices[0].message.content
    word = free.split()[0]
    without = client.chat.completions.create(**ask, extra_body={"bad_words": [word]}).choices[0].message.content
    assert word not in without
    chosen = client.chat.completions.create(**ask, extra_body={"structured_outputs": {"choice": ["naïve", "no"]}})
    assert chosen.choices[0].message.content in ("naïve", "no")


def test_an_overflow_is_recognised(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is") as caught:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "a b c " * 9000}])
    assert caught.value.code == "context_length_exceeded"
