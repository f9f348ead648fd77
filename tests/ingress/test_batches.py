"""Batches over fake stages: everything is answered once, nothing is lost, and each client has its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from deployments.config import AppConfig, IngressConfig
from deployments.errors import BadMedia, BadRequest, NotFound, StageUnavailable
from deployments.ingress.batches.concurrency import FLOOR, START, BatchConcurrency
from deployments.ingress.batches.files import FileStore
from deployments.ingress.batches.folder import Folder
from deployments.ingress.batches.journal import Journal, entry
from deployments.ingress.http.form_stream import PartBegins, read_parts
from tests.support.fakes import FakeApplication, prepared


def line(name: str, text: str = "hi", **fields: Any) -> bytes:
    body = {"model": "demo", "messages": [{"role": "user", "content": text}]}
    return orjson.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body, **fields})


def application(folder: Path, **settings: Any) -> FakeApplication:
    return FakeApplication(AppConfig(ingress=IngressConfig(batch_folder=folder, **settings)))


@asynccontextmanager
async def working(app: FakeApplication, key: str = "none") -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client of a replica that works on batches as long as the block lasts."""
    runner = asyncio.create_task(app.api.batches.run())
    async with (
        app.client(timeout=60) as http,
        openai.AsyncOpenAI(base_url="http://sluice/v1", api_key=key, http_client=http, max_retries=0) as client,
    ):
        try:
            yield client
        finally:
            runner.cancel()
            with suppress(asyncio.CancelledError):
                await runner


async def begun(client: openai.AsyncOpenAI, *lines: bytes, window: Any = "24h") -> Any:
    file = await client.files.create(file=("in.jsonl", b"\n".join(lines)), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=window, metadata={"job": "nightly"}
    )


async def ended(client: openai.AsyncOpenAI, batch_id: str) -> Any:
    async with asyncio.timeout(60):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in ("completed", "failed", "cancelled", "expired"):
                return batch
            await asyncio.sleep(0.05)


async def told(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, Any]:
    """The lines of a file by `custom_id`."""
    assert file_id is not None
    text = (await client.files.content(file_id)).text
    lines = [orjson.loads(one) for one in text.splitlines()]
    by_name = {one["custom_id"]: one for one in lines}
    assert len(by_name) == len(lines)
    return by_name


async def test_a_batch_is_answered_as_requests_are(tmp_path: Path) -> None:
    app = application(tmp_path)
    async with working(app) as client:
        batch = await begun(client, line("a"), line("b", "ho"), b"", line("c"))
        assert batch.status == "validating"
        batch = await ended(client, batch.id)
        assert (batch.status, batch.error_file_id, batch.metadata) == ("completed", None, {"job": "nightly"})
        assert (batch.request_counts.total, batch.request_counts.completed) == (3, 3)
        answers = await told(client, batch.output_file_id)
        assert set(answers) == {"a", "b", "c"}
        response = answers["a"]["response"]
        assert response["status_code"] == 200
        assert response["body"]["choices"][0]["message"]["content"] == "Hello"
        assert [one.id async for one in client.batches.list()] == [batch.id]
    assert app.metrics.values["sluice_batch_lines", ("completed",)] == 3
    assert app.metrics.values["sluice_requests", ("/v1/chat/completions", "200")] == 3
    assert ("sluice_ttft_seconds", ("demo",)) not in app.metrics.observed  # nobody waited for a first token
    assert app.api.admission.admitted == 0


async def test_wrong_lines_have_their_errors_and_the_others_their_answers(tmp_path: Path) -> None:
    lines = [line("a"), b"{", b'{"custom_id": "x"}', line("b", body={}), line("c", stream=True), line("d")]
    async with working(application(tmp_path)) as client:
        batch = await ended(client, (await begun(client, *lines)).id)
        assert batch.status == "completed"
        assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 4)
        text = (await client.files.content(batch.error_file_id)).text
        wrong = sorted((orjson.loads(one) for one in text.splitlines()), key=lambda one: one["id"])
        assert [one["custom_id"] for one in wrong] == [None, "x", "b", "c"]
        assert [one["error"] and one["error"]["message"].split(":")[0] for one in wrong] == [
            "line 2 is not valid JSON",
            "line 3",
            None,
            "line 5",
        ]
        assert wrong[2]["response"]["status_code"] == 400
        assert set(wrong[2]["response"]["body"]["error"]) == {"message", "type", "param", "code"}


async def test_a_name_that_comes_twice_ends_the_batch_before_anything_is_done(tmp_path: Path) -> None:
    app = application(tmp_path)
    async with working(app) as client:
        batch = await ended(client, (await begun(client, line("a"), line("b"), line("a"))).id)
        assert (batch.status, batch.output_file_id) == ("failed", None)
        [error] = batch.errors.data
        assert (error.code, error.line) == ("duplicate_custom_id", 3)
        empty = await ended(client, (await begun(client, b" ")).id)
        assert empty.errors.data[0].code == "empty_file"
    assert not app.model.calls


async def test_a_replica_that_dies_loses_nothing_and_answers_nothing_twice(tmp_path: Path) -> None:
    first = application(tmp_path)
    names = [f"n{number}" for number in range(40)]
    async with working(first) as client:
        batch = await begun(client, *map(line, names))
        while len(first.model.calls) < 10:
            await asyncio.sleep(0)
        first.model.gate = asyncio.Event()  # what runs from now on never ends
        await asyncio.sleep(0.05)
    output = tmp_path / "batches" / batch.id / "output.jsonl"
    whole = output.read_bytes().count(b"\n")
    assert 0 < whole < 40
    with output.open("ab") as file:
        file.write(b'{"id":"batch_req_torn')
    second = application(tmp_path)
    async with working(second) as client:
        batch = await ended(client, batch.id)
        assert set(await told(client, batch.output_file_id)) == set(names)
    assert len(second.model.calls) == 40 - whole


async def test_two_replicas_do_not_work_on_the_same_batch(tmp_path: Path) -> None:
    first, second = application(tmp_path), application(tmp_path)
    async with working(first) as client, working(second) as other:
        batches = [await begun(client, *(line(f"{number}") for number in range(10))) for _ in range(3)]
        for batch in batches:
            done = await ended(other, batch.id)
            assert len(await told(other, done.output_file_id)) == 10
    assert len(first.model.calls) + len(second.model.calls) == 30


async def test_a_cancelled_batch_keeps_what_it_has(tmp_path: Path) -> None:
    app = application(tmp_path)
    async with working(app) as client:
        batch = await begun(client, *(line(f"{number}") for number in range(40)))
        while len(app.model.calls) < 5:
            await asyncio.sleep(0)
        app.model.gate = asyncio.Event()
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        await asyncio.sleep(1.2)
        app.model.gate.set()
        batch = await ended(client, batch.id)
        assert batch.status == "cancelled"
        assert 0 < len(await told(client, batch.output_file_id)) == batch.request_counts.completed < 40


async def test_a_batch_whose_time_is_over_says_so_of_each_line(tmp_path: Path) -> None:
    app = application(tmp_path)
    async with working(app) as client:
        batch = await begun(client, line("a"), line("b"), window="1m")
    asked = tmp_path / "batches" / batch.id / "asked.json"
    asked.write_bytes(orjson.dumps({**orjson.loads(asked.read_bytes()), "expires_at": 1}))
    async with working(app) as client:
        batch = await ended(client, batch.id)
        assert batch.status == "expired"
        late = await told(client, batch.error_file_id)
        assert {late[name]["error"]["code"] for name in ("a", "b")} == {"batch_expired"}


async def test_refusals_and_deaths_of_replicas_are_tried_again_and_bad_requests_are_not(tmp_path: Path) -> None:
    app = application(tmp_path)
    asked: list[str] = []

    def once_down(chat: Any, media: Any) -> Any:
        text = str(chat.messages[-1].parts)
        asked.append(text)
        if "bad" in text:
            raise BadMedia("no picture")
        if len(asked) < 3:
            raise StageUnavailable("the replica has died")
        return prepared(chat, media)

    app.preprocessor.answers["prepare"] = once_down
    async with working(app) as client:
        batch = await ended(client, (await begun(client, line("a"), line("bad", "bad"))).id)
        assert set(await told(client, batch.output_file_id)) == {"a"}
        assert set(await told(client, batch.error_file_id)) == {"bad"}
    assert sum("bad" in text for text in asked) == 1


async def test_files_and_batches_belong_to_one_key(tmp_path: Path) -> None:
    keys = (SecretStr("one"), SecretStr("two"))
    app = application(tmp_path, api_keys=keys)
    async with working(app, "one") as one, working(app, "two") as two:
        file = await one.files.create(file=("in.jsonl", line("a")), purpose="batch")
        batch = await begun(one, line("a"))
        assert (await two.files.list()).data == []
        assert (await two.batches.list()).data == []
        for forbidden in (
            two.files.retrieve(file.id),
            two.files.content(file.id),
            two.files.delete(file.id),
            two.batches.retrieve(batch.id),
            two.batches.cancel(batch.id),
            two.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"),
            two.files.retrieve("../../etc/passwd"),
        ):
            with pytest.raises(openai.NotFoundError):
                await forbidden
        done = await ended(one, batch.id)
        assert set(await told(one, done.output_file_id)) == {"a"}
        assert (await one.files.delete(file.id)).deleted
    assert not any(b"one" in path.read_bytes() for path in tmp_path.rglob("*.json"))


async def test_uploads_keep_their_bounds_and_leave_nothing_behind(tmp_path: Path) -> None:
    app = application(tmp_path, max_batch_file_bytes=1000, max_batch_folder_bytes=1500, max_batch_files=3)
    async with working(app) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.files.create(file=("big", b"x" * 1001), purpose="batch")
        assert refused.value.status_code == 413
        await client.files.create(file=("a", b"x" * 900), purpose="batch")
        with pytest.raises(openai.APIStatusError, match="bytes"):
            await client.files.create(file=("b", b"x" * 900), purpose="batch")
        with pytest.raises(openai.BadRequestError, match="purpose"):
            await client.files.create(file=("c", b"x"), purpose="fine-tune")
        for _ in range(2):
            await client.files.create(file=("d", b"x"), purpose="batch")
        with pytest.raises(openai.APIStatusError, match="files"):
            await client.files.create(file=("e", b"x"), purpose="batch")
        assert len((await client.files.list(limit=2)).data) == 2
        assert {file.filename async for file in client.files.list(limit=2)} == {"a", "d"}
    assert not list(tmp_path.glob("files/*.part"))


async def test_files_go_when_their_time_is_over_and_inputs_once_nobody_needs_them(tmp_path: Path) -> None:
    now = 1000.0
    files = FileStore(Folder(tmp_path), 100, 1000, 10, 50.0, clock=lambda: now)
    ages = {"soon": 10.0, "late": 10_000.0, "usual": None}
    stored = {}
    for name, age_s in ages.items():
        with files.receive() as upload:
            upload.write(b"x")
            stored[name] = upload.keep("me", name, age_s)
    assert {name: file.expires_at for name, file in stored.items()} == {"soon": 1010, "late": 1050, "usual": 1050}
    now = 1010.0
    with pytest.raises(NotFound):
        files.find(stored["soon"].id, "me")
    files.sweep({stored["soon"].id})
    assert files.path(stored["soon"].id).exists()
    files.sweep(())
    assert not files.path(stored["soon"].id).exists()
    assert {file.filename for file in files.all_of("me")} == {"late", "usual"}


async def test_clients_say_how_long_files_are_wanted(tmp_path: Path) -> None:
    app = application(tmp_path, max_batch_file_age_s=None)
    day = {"anchor": "created_at", "seconds": 86_400}
    async with working(app) as client:
        file = await client.files.create(file=("a", line("a")), purpose="batch", expires_after=day)  # type: ignore[arg-type]
        assert file.expires_at == file.created_at + 86_400
        assert (await client.files.create(file=("b", b"x"), purpose="batch")).expires_at is None
        with pytest.raises(openai.BadRequestError, match=r"expires_after\.seconds"):
            await client.files.create(file=("a", b"x"), purpose="batch", expires_after={**day, "seconds": 10})  # type: ignore[arg-type]
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            output_expires_after=day,  # type: ignore[arg-type]
        )
        output = await client.files.retrieve((await ended(client, batch.id)).output_file_id)
        assert output.expires_at == output.created_at + 86_400


async def test_files_whose_time_is_over_leave_the_folder(tmp_path: Path) -> None:
    async with working(application(tmp_path, max_batch_file_age_s=1)) as client:
        file = await client.files.create(file=("a", b"x"), purpose="batch")
        async with asyncio.timeout(30):
            while (await client.files.list()).data:
                await asyncio.sleep(0.05)
        with pytest.raises(openai.NotFoundError):
            await client.files.content(file.id)
    async with working(application(tmp_path)), asyncio.timeout(30):
        while list(tmp_path.glob("files/*")):
            await asyncio.sleep(0.05)


async def test_without_a_folder_the_setting_is_named() -> None:
    async with FakeApplication().client() as client:
        for said in (await client.get("/v1/files"), await client.post("/v1/batches/x/cancel")):
            assert said.status_code == 400
            assert "ingress.batch_folder" in said.json()["error"]["message"]


@given(st.lists(st.binary(max_size=60), max_size=4), st.integers(1, 40))
def test_forms_are_read_the_same_however_they_are_cut(contents: list[bytes], step: int) -> None:
    head = 'Content-Disposition: form-data; name="p{}"; filename="f"\r\n\r\n'
    form = b"".join(b"--bb\r\n" + head.format(n).encode() + text + b"\r\n" for n, text in enumerate(contents))
    form += b"--bb--\r\n"

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(form), step):
            yield form[start : start + step]

    async def read() -> list[bytes]:
        parts: list[bytes] = []
        async for event in read_parts(chunks(), b"bb"):
            if isinstance(event, PartBegins):
                assert (event.name, event.filename) == (f"p{len(parts)}", "f")
                parts.append(b"")
            else:
                parts[-1] += event
        return parts

    if not any(b"\r\n--bb" in b"\r\n" + text for text in contents):
        assert asyncio.run(read()) == contents


async def test_a_form_that_ends_too_early_is_refused() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'--bb\r\nContent-Disposition: form-data; name="a"\r\n\r\nhalf'

    with pytest.raises(BadRequest, match="complete"):
        [event async for event in read_parts(chunks(), b"bb")]


def test_a_torn_line_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    whole = b"".join(entry("batch_0123", number, "x") for number in range(3))
    for length in range(len(whole) + 1):
        path = tmp_path / "journal"
        path.write_bytes(whole[:length])
        journal = Journal(path)
        kept = whole[:length].rfind(b"\n") + 1
        journal.close()
        assert path.read_bytes() == whole[:kept]
        assert journal.numbers == set(range(whole[:kept].count(b"\n")))


def test_the_number_at_once_grows_while_nothing_queues_and_shrinks_when_something_does() -> None:
    async def run(places: int) -> int:
        concurrency = BatchConcurrency(256)
        for _ in range(40):
            asking = [asyncio.create_task(concurrency.enter()) for _ in range(2 * concurrency.now)]
            await asyncio.sleep(0)
            entered = [task for task in asking if task.done()]
            assert len(entered) == concurrency.now
            for before in range(len(entered)):
                concurrency.observe(0.02 + before // places, 1.0)
                concurrency.leave()
            for task in asking:
                task.cancel()
            await asyncio.sleep(0)
        return concurrency.now

    assert START <= asyncio.run(run(4)) <= 8
    assert 32 <= asyncio.run(run(32)) <= 64
    assert FLOOR <= asyncio.run(run(1)) <= 3
    assert asyncio.run(run(1000)) == 256


async def test_a_client_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    app = application(tmp_path)

    async def broken() -> AsyncIterator[bytes]:
        yield b'--bb\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"x" * (3 * 2**20)

    async with app.client() as client:
        headers = {"content-type": "multipart/form-data; boundary=bb"}
        said: httpx.Response = await client.post("/v1/files", content=broken(), headers=headers)
    assert said.status_code == 400
    assert list((tmp_path / "files").iterdir()) == []
