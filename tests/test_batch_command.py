"""`python -m deployments.batch` against an API on a socket: all lines, once, and again only what failed."""

import asyncio
import json
from pathlib import Path

import pytest

from deployments.batch import main
from deployments.errors import BadMedia, Overloaded
from tests.ingress.conftest import Serve, serve
from tests.support.fakes import FakeApplication, prepared

__all__ = ["serve"]


def write(path: Path, *names: str) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    lines = [{"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body} for name in names]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def told(path: Path) -> dict[str, int]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["response"]["status_code"] for line in lines}


async def test_a_file_is_asked_and_what_failed_is_asked_again(tmp_path: Path, serve: Serve) -> None:
    source, sink = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, "a", "b", "c")
    app = FakeApplication()
    tries = 0

    def prepare(chat: object, media: object) -> object:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Overloaded("busy", retry_after_s=1)
        if tries == 2:
            raise BadMedia("no picture")
        return prepared(chat, media)  # type: ignore[arg-type]

    app.preprocessor.answers["prepare"] = prepare  # type: ignore[assignment]
    async with serve(app.api) as url:
        arguments = [str(source), str(sink), "--url", url, "--concurrency", "1"]
        assert await asyncio.to_thread(main, arguments) == 1
        assert sorted(told(sink).values()) == [200, 200, 400]
        with sink.open("ab") as file:
            file.write(b'{"custom_id": "torn')
        assert await asyncio.to_thread(main, arguments) == 0
        assert told(sink) == {"a": 200, "b": 200, "c": 200}
        assert tries == 5
        assert await asyncio.to_thread(main, arguments) == 0
        assert tries == 5


@pytest.mark.parametrize("text", ["{", '{"custom_id": "a"}', "[]"])
def test_a_file_that_is_no_batch_is_refused_before_anything_is_asked(tmp_path: Path, text: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(text, encoding="utf-8")
    assert main([str(source), str(tmp_path / "out.jsonl")]) == 2
    assert not (tmp_path / "out.jsonl").exists()


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    write(source, "a", "a")
    assert main([str(source), str(tmp_path / "out.jsonl")]) == 2
