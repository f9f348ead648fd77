"""`python -m deployments.batch IN.jsonl OUT.jsonl`: put a file of requests to a running server, a few at a time.

The lines are those of OpenAI's batches. It needs no folder at the server, waits as long as a busy server says, and
carries on with an OUT that is there already: what is answered in it is not asked again. Ends with 1 when a
request failed; each failure is a line of OUT too, and is asked again the next time.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from tqdm import tqdm

TRIES = 5
"""Of a request that ended in an error of the server or of the network; refusals for want of room don't count."""
PAUSE_S = 2.0
"""Where the server names no time; twice as long before each further try."""
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class RequestLine:
    custom_id: str
    url: str
    body: bytes


class WrongInput(ValueError):
    """Nothing was asked."""


def read_items(path: Path) -> list[RequestLine]:
    """All requests of a file. Raises `WrongInput`, which names the line."""
    items: dict[str, RequestLine] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                said = orjson.loads(line)
                item = RequestLine(str(said["custom_id"]), str(said["url"]), orjson.dumps(said["body"]))
            except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                raise WrongInput(f"{path}: line {number} is no request: {error}") from error
            if items.setdefault(item.custom_id, item) is not item:
                raise WrongInput(f"{path}: line {number}: `custom_id` {item.custom_id!r} comes twice")
    return list(items.values())


def recover(path: Path) -> set[str]:
    """The names of those that are answered in `path`, from which failures and a torn last line are taken out."""
    if not path.exists():
        return set()
    kept = path.with_name(f"{path.name}.part")
    done: set[str] = set()
    with kept.open("wb") as sink:
        for line, said in _whole_lines(path):
            if said["response"]["status_code"] == 200:
                done.add(said["custom_id"])
                sink.write(line)
    kept.replace(path)
    return done


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line, orjson.loads(line)


class Server:
    """The requests' way there and back."""

    def __init__(self, session: aiohttp.ClientSession, url: str, pause_s: float = PAUSE_S) -> None:
        self._session, self._url, self._pause_s = session, url.rstrip("/").removesuffix("/v1"), pause_s

    async def ask(self, item: RequestLine) -> dict[str, Any]:
        """The item's line in the output."""
        tries, pause_s = 0, self._pause_s
        while True:
            status, retry_after, said = await self._post(item)
            tries += status not in (429, 503)
            if status in (429, 503) or (status >= 500 and tries < TRIES):
                await asyncio.sleep(float(retry_after) if retry_after.isdigit() else pause_s)
                pause_s = min(2 * pause_s, 60.0)
                continue
            response = {"status_code": status, "body": said}
            return {"custom_id": item.custom_id, "response": response, "error": None}

    async def _post(self, item: RequestLine) -> tuple[int, str, Any]:
        """Status, `Retry-After` and body; status 599 when there was no answer at all."""
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(self._url + item.url, data=item.body, headers=headers) as response:
                whole = await response.read()
                retry_after = response.headers.get("retry-after", "")
                return response.status, retry_after, orjson.Fragment(whole) if _is_json(whole) else whole.decode()
        except (aiohttp.ClientError, TimeoutError) as error:
            return 599, "", {"error": {"message": f"{type(error).__name__}: {error}", "code": "connection_error"}}


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


@asynccontextmanager
async def connected(options: argparse.Namespace) -> AsyncIterator[Server]:
    headers = {"authorization": f"Bearer {options.key}"} if options.key else {}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        yield Server(session, options.url)


async def run(options: argparse.Namespace) -> int:
    """How many failed. Raises `WrongInput`."""
    items = read_items(options.input)
    done = recover(options.output)
    todo = [item for item in items if item.custom_id not in done]
    failed = 0
    turns = iter(todo)
    with options.output.open("ab", buffering=0) as sink, tqdm(total=len(items), initial=len(items) - len(todo)) as bar:
        async with connected(options) as server:

            async def work() -> None:
                nonlocal failed
                for item in turns:
                    line = await server.ask(item)
                    failed += line["response"]["status_code"] != 200
                    sink.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
                    bar.update()

            async with asyncio.TaskGroup() as group:
                for _ in range(options.concurrency):
                    group.create_task(work())
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deployments.batch", description="Ask a server a file of requests.")
    parser.add_argument("input", type=Path, metavar="IN.jsonl")
    parser.add_argument("output", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server; default: %(default)s")
    parser.add_argument("--key", default=os.environ.get("OPENAI_API_KEY"), help="API key; default: $OPENAI_API_KEY")
    parser.add_argument(
        "--concurrency", type=int, default=8, metavar="N", help="requests at once; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    try:
        failed = asyncio.run(run(options))
    except (WrongInput, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if failed:
        print(f"{failed} requests failed; run it again to ask them once more", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
