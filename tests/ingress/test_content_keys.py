"""What belongs together has one key at each stage, and what does not has another."""

import base64
from typing import Any

from deployments.config import AppConfig, EngineConfig, IngressConfig
from deployments.types import Fetched, MediaItem
from tests.support.fakes import FakeApplication, fetched

CLIP = {"type": "video_url", "video_url": {"url": "https://media.example/clip.mp4"}}
OTHER = {"type": "video_url", "video_url": {"url": "https://media.example/other.mp4"}}
LOGO = {"type": "image_url", "image_url": {"url": "https://media.example/logo.png"}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def data_url(content: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(content).decode()}}


def user(*parts: object) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


async def model_key(app: FakeApplication, *messages: dict[str, Any], **fields: Any) -> str:
    async with app.client() as client:
        body = {"model": "demo", "messages": list(messages), **fields}
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    key = app.model.calls[-1].key
    assert key
    return key


async def test_questions_about_one_clip_meet_whatever_they_say() -> None:
    app = FakeApplication()
    first = await model_key(app, user(CLIP, text("what moves?")))
    assert first == await model_key(app, {"role": "system", "content": "Be brief."}, user(text("and here?"), CLIP))
    assert first != await model_key(app, user(OTHER, text("what moves?")))


async def test_a_conversation_keeps_its_key_while_it_grows() -> None:
    app = FakeApplication()
    system, answer = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "A circle."}
    for begin in ([system, user(CLIP, text("what?"))], [system, user(text("hello"))]):
        first = await model_key(app, *begin)
        assert first == await model_key(app, *begin, answer, user(text("why?")))
    assert first != await model_key(app, system, user(text("good bye")))


async def test_of_several_items_the_largest_counts() -> None:
    app = FakeApplication()

    def sized(item: MediaItem) -> tuple[Fetched, object]:
        size_bytes = 10 if str(item.url).endswith("logo.png") else 1000
        return Fetched(item.kind, "x", size_bytes, item.url, 0.001), item.label

    app.fetcher.answers["fetch"] = sized
    alone = await model_key(app, user(CLIP))
    assert alone == await model_key(app, user(LOGO, CLIP))
    assert alone != await model_key(app, user(LOGO, OTHER))


async def test_fetchers_are_chosen_by_url_or_by_the_data_itself() -> None:
    app = FakeApplication()
    await model_key(app, user(CLIP, LOGO, data_url(b"a" * 1000), data_url(b"b" * 1000)))
    await model_key(app, user(CLIP, LOGO, data_url(b"a" * 1000), data_url(b"b" * 1000)))
    keys = [call.key for call in app.fetcher.calls]
    assert keys[:4] == keys[4:]
    assert len(set(keys)) == 4


async def test_decoders_and_models_are_chosen_by_what_files_hold_wherever_they_came_from() -> None:
    app = FakeApplication()

    def digested(item: MediaItem) -> tuple[Fetched, object]:
        meta, payload = fetched(item)
        return Fetched(meta.kind, meta.container, meta.size_bytes, meta.final_url, 0.0, digest="same"), payload

    app.fetcher.answers["fetch"] = digested
    assert await model_key(app, user(CLIP)) == await model_key(app, user(OTHER))
    assert len({call.key for call in app.decoder.calls}) == 1
    assert len({call.key for call in app.fetcher.calls}) == 2


async def test_where_clients_share_no_beginnings_their_requests_need_not_meet() -> None:
    for apart in (False, True):
        engine, ingress = EngineConfig(prefix_cache_per_key=apart), IngressConfig(api_keys=("one", "two"))
        app, keys = FakeApplication(AppConfig(engine=engine, ingress=ingress)), []
        for key in ("one", "two"):
            async with app.client(headers={"authorization": f"Bearer {key}"}) as client:
                await client.post("/v1/completions", json={"model": "demo", "prompt": "Once upon a time"})
            keys.append(app.model.calls[-1].key)
        assert (keys[0] != keys[1]) == apart
