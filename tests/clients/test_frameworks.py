"""Frameworks that applications are written with: each in the way its own documentation begins with."""

import asyncio
import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from tests.clients.conftest import PARAMETERS, SPELT, TOOL


class Place(BaseModel):
    """A place to look at."""

    x: Literal[1, 2, 3]


def test_anthropic(url: str) -> None:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="unused", max_retries=0)
    tool = {"name": "look", "description": "Looks.", "input_schema": PARAMETERS}
    ask: dict[str, Any] = {"model": "demo", "max_tokens": 200, "messages": [{"role": "user", "content": "look"}]}
    message = client.messages.create(**ask, tools=[tool], tool_choice={"type": "any"})
    (block, *_) = message.content
    assert (block.type, message.stop_reason) == ("tool_use", "tool_use")
    assert block.input["x"] in (1, 2, 3)
    with client.messages.stream(**ask, tools=[tool], extra_body=SPELT) as stream:
        assert stream.get_final_message().content[0].text
    results = {"type": "tool_result", "tool_use_id": block.id, "content": "a red circle"}
    messages = [*ask["messages"], {"role": "assistant", "content": [block]}, {"role": "user", "content": [results]}]
    again = client.messages.create(model="demo", max_tokens=8, tools=[tool], messages=messages)
    assert again.usage.input_tokens > message.usage.input_tokens
    assert client.messages.count_tokens(model="demo", messages=ask["messages"]).input_tokens > 0


def test_langchain(url: str) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(base_url=url, api_key="unused", model="demo", max_retries=0, max_tokens=200)
    called = model.bind_tools([TOOL], tool_choice="any").invoke("look")
    assert called.tool_calls[0]["args"]["x"] in (1, 2, 3)
    assert model.with_structured_output(Place).invoke("where?").x in (1, 2, 3)
    pieces = list(model.bind_tools([TOOL]).stream("look", extra_body=SPELT))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert whole.tool_calls[0]["args"] == {"x": 2}


def test_litellm(url: str) -> None:
    litellm = pytest.importorskip("litellm")
    ask = {"model": "openai/demo", "api_base": url, "api_key": "unused", "max_tokens": 200}
    messages = [{"role": "user", "content": "look"}]
    answer = litellm.completion(**ask, messages=messages, tools=[TOOL], tool_choice="required")
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments)["x"] in (1, 2, 3)
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**ask, messages=[{"role": "user", "content": "a b c " * 9000}])


def test_instructor(url: str) -> None:
    instructor = pytest.importorskip("instructor")
    openai = pytest.importorskip("openai")
    client = instructor.from_openai(openai.OpenAI(base_url=url, api_key="unused", max_retries=0))
    place = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "where?"}], response_model=Place, max_retries=0
    )
    assert place.x in (1, 2, 3)


def test_pydantic_ai(url: str) -> None:
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=url, api_key="unused")
    for model in (OpenAIChatModel("demo", provider=provider), OpenAIResponsesModel("demo", provider=provider)):
        agent = Agent(model, output_type=Place)
        assert agent.run_sync("where?").output.x in (1, 2, 3)


def test_openai_agents(url: str) -> None:
    agents = pytest.importorskip("agents")
    openai = pytest.importorskip("openai")
    agents.set_tracing_disabled(True)
    looked: list[int] = []

    @agents.function_tool
    def look(x: Literal[1, 2, 3]) -> str:
        """Looks at a place."""
        looked.append(x)
        return "a red circle"

    async def run(kind: Any) -> Any:
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            settings = agents.ModelSettings(tool_choice="required", max_tokens=100, parallel_tool_calls=False)
            model = kind(model="demo", openai_client=client)
            agent = agents.Agent(name="looker", model=model, tools=[look], model_settings=settings)
            return await agents.Runner.run(agent, "look", max_turns=4)

    for kind in (agents.OpenAIResponsesModel, agents.OpenAIChatCompletionsModel):
        looked.clear()
        assert isinstance(asyncio.run(run(kind)).final_output, str)
        assert looked


def test_llama_index(url: str) -> None:
    pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(model="demo", api_base=url, api_key="unused", is_chat_model=True, max_tokens=8, max_retries=0)
    assert model.chat([ChatMessage(role="user", content="hi")]).message.content
    assert "".join(piece.delta or "" for piece in model.stream_chat([ChatMessage(role="user", content="hi")]))
    plain = OpenAILike(model="demo", api_base=url, api_key="unused", is_chat_model=False, max_tokens=8, max_retries=0)
    assert plain.complete("the circle is").text
