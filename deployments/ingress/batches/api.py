"""`/v1/files` and `/v1/batches`, in OpenAI's shape. A client sees what is its key's, and nothing else."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from deployments.config import IngressConfig
from deployments.errors import BadRequest, TooLarge, shown
from deployments.ingress.batches.files import FileStore, StoredFile, Upload
from deployments.ingress.batches.folder import new_id
from deployments.ingress.batches.lines import Endpoint
from deployments.ingress.batches.state import ENDED, BatchAsked, BatchStore
from deployments.ingress.http.clients import Clients
from deployments.ingress.http.form import MAX_FIELD_BYTES, boundary_of
from deployments.ingress.http.form_stream import PartBegins, read_parts
from deployments.ingress.http.json_responses import json_response
from deployments.ingress.http.small_body import check_length, read_object
from deployments.ingress.http.upload import IncomingBodies
from deployments.ingress.wire import Wire, validated

WRITE_BYTES = 2**20
"""Gathered before a thread writes them."""
MAX_BODY_BYTES = 64 * 1024
MAX_PAGE = 10_000
DEFAULT_PAGE = 100
_WINDOW = re.compile(r"([1-9]\d{0,3})([mhd])")
_EXPIRES = {"expires_after[anchor]": "anchor", "expires_after[seconds]": "seconds"}
_FIELDS = frozenset({"purpose", *_EXPIRES})
"""Of the form beside the file."""
_UNIT_S = {"m": 60, "h": 3600, "d": 86_400}


class ExpiresAfter(Wire):
    """When a file goes by itself."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class BatchRequest(Wire):
    """The body of `POST /v1/batches`."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: str = "24h"
    """Minutes, hours or days: `30m`, `24h`, `7d`."""
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    output_expires_after: ExpiresAfter | None = None


class BatchApi:
    def __init__(
        self, config: IngressConfig, files: FileStore, batches: BatchStore, clients: Clients, uploads: IncomingBodies
    ) -> None:
        self._config, self._files, self._batches = config, files, batches
        self._clients, self._uploads = clients, uploads

    def routes(self) -> list[Route]:
        return [
            Route("/v1/files", self._upload, methods=["POST"]),
            Route("/v1/files", self._list_files, methods=["GET"]),
            Route("/v1/files/{file_id}", self._file, methods=["GET"]),
            Route("/v1/files/{file_id}", self._delete_file, methods=["DELETE"]),
            Route("/v1/files/{file_id}/content", self._content, methods=["GET"]),
            Route("/v1/batches", self._create, methods=["POST"]),
            Route("/v1/batches", self._list_batches, methods=["GET"]),
            Route("/v1/batches/{batch_id}", self._batch, methods=["GET"]),
            Route("/v1/batches/{batch_id}/cancel", self._cancel, methods=["POST"]),
        ]

    async def _upload(self, request: Request) -> Response:
        owner = self._clients.owner(request.scope)
        boundary = boundary_of(request.headers.get("content-type", ""))
        if boundary is None:
            raise BadRequest("a file is sent as multipart/form-data, with the fields `purpose` and `file`")
        check_length(request.headers, self._config.max_batch_file_bytes + MAX_BODY_BYTES)
        with self._files.receive() as upload:
            filename, expires = await self._read_form(request, boundary, upload)
            stored = await asyncio.to_thread(upload.keep, owner, filename, expires.seconds if expires else None)
        return json_response(stored.document())

    async def _read_form(self, request: Request, boundary: bytes, upload: Upload) -> tuple[str, ExpiresAfter | None]:
        """The name of the file, whose bytes are in `upload` then, and how long it is wanted."""
        fields: dict[str, bytearray] = {}
        filename, name = None, ""
        waiting = bytearray()
        async for event in read_parts(self._uploads.chunks(request.receive, None), boundary):
            if isinstance(event, PartBegins):
                name = event.name
                if name == "file" and event.filename is not None and filename is None:
                    filename = event.filename
                elif name not in _FIELDS:
                    raise BadRequest(f"unknown field `{shown(name)}`", param=shown(name))
                fields[name] = waiting if name == "file" else bytearray()
                continue
            fields[name] += event
            if name != "file" and len(fields[name]) > MAX_FIELD_BYTES:
                raise TooLarge(f"a field of the form is larger than {MAX_FIELD_BYTES} bytes", param=name)
            if len(waiting) >= WRITE_BYTES:
                await asyncio.to_thread(upload.write, bytes(waiting))
                waiting.clear()
        if filename is None:
            raise BadRequest("`file` is missing", param="file")
        if bytes(fields.get("purpose", b"")) != b"batch":
            raise BadRequest("`purpose` must be `batch`: files serve nothing else here", param="purpose")
        await asyncio.to_thread(upload.write, bytes(waiting))
        return shown(filename), _expires_after(fields)

    async def _list_files(self, request: Request) -> Response:
        owner = self._clients.owner(request.scope)
        files = await asyncio.to_thread(self._files.all_of, owner)
        if purpose := request.query_params.get("purpose"):
            files = [file for file in files if file.purpose == purpose]
        return json_response(_page(request, files))

    async def _file(self, request: Request) -> Response:
        return json_response((await self._found(request)).document())

    async def _delete_file(self, request: Request) -> Response:
        stored = await self._found(request)
        for batch in await asyncio.to_thread(self._batches.all_of, stored.owner):
            if batch.asked.input_file_id == stored.id and batch.state.status not in ENDED:
                raise BadRequest(f"the batch {batch.asked.id} still needs this file", param="file_id")
        await asyncio.to_thread(self._files.delete, stored.id, stored.owner)
        return json_response({"id": stored.id, "object": "file", "deleted": True})

    async def _content(self, request: Request) -> Response:
        stored = await self._found(request)
        path = self._files.path(stored.id)
        return FileResponse(path, media_type="application/octet-stream", filename=stored.filename)

    async def _found(self, request: Request) -> StoredFile:
        owner = self._clients.owner(request.scope)
        return await asyncio.to_thread(self._files.find, request.path_params["file_id"], owner)

    async def _create(self, request: Request) -> Response:
        owner = self._clients.owner(request.scope)
        said = await self._read_body(request)
        window = _WINDOW.fullmatch(said.completion_window)
        if window is None:
            raise BadRequest("`completion_window` is a time like `24h`, `30m` or `7d`", param="completion_window")
        stored = await asyncio.to_thread(self._files.find, said.input_file_id, owner)
        now = int(time.time())
        asked = BatchAsked(
            new_id("batch_"),
            owner,
            stored.id,
            said.endpoint,
            said.completion_window,
            now,
            now + int(window[1]) * _UNIT_S[window[2]],
            new_id("file-"),
            new_id("file-"),
            said.metadata,
            said.output_expires_after.seconds if said.output_expires_after else None,
        )
        batch = await asyncio.to_thread(self._batches.create, asked, self._config.max_batch_files)
        return json_response(batch.document())

    async def _read_body(self, request: Request) -> BatchRequest:
        chunks = self._uploads.chunks(request.receive, None)
        return validated(BatchRequest, await read_object(request.headers, chunks, MAX_BODY_BYTES), "")

    async def _list_batches(self, request: Request) -> Response:
        owner = self._clients.owner(request.scope)
        batches = await asyncio.to_thread(self._batches.all_of, owner)
        return json_response(_page(request, batches))

    async def _batch(self, request: Request) -> Response:
        owner = self._clients.owner(request.scope)
        batch = await asyncio.to_thread(self._batches.find, request.path_params["batch_id"], owner)
        return json_response(batch.document())

    async def _cancel(self, request: Request) -> Response:
        owner = self._clients.owner(request.scope)
        batch = await asyncio.to_thread(self._batches.find, request.path_params["batch_id"], owner)
        return json_response((await asyncio.to_thread(self._batches.cancel, batch)).document())


def _expires_after(fields: Mapping[str, bytearray]) -> ExpiresAfter | None:
    """Of a form, which has texts only. Raises `BadRequest`."""
    said: dict[str, Any] = {
        name: bytes(fields[field]).decode(errors="replace") for field, name in _EXPIRES.items() if field in fields
    }
    if str(said.get("seconds", "")).isdecimal():
        said["seconds"] = int(said["seconds"])
    return validated(ExpiresAfter, said, "expires_after") if said else None


class NoBatchApi:
    """The same routes where no folder is named."""

    def routes(self) -> list[Route]:
        methods = ["GET", "POST", "DELETE"]
        return [Route(path, self._off, methods=methods) for path in ("/v1/files{rest:path}", "/v1/batches{rest:path}")]

    async def _off(self, request: Request) -> Response:
        raise BadRequest(
            "files and batches are off: the setting `ingress.batch_folder` names no folder;"
            " `python -m deployments.batch` sends a file of requests without them"
        )


class Listed(Protocol):
    def document(self) -> dict[str, Any]: ...


L = TypeVar("L", bound=Listed)


def _page(request: Request, found: Sequence[L]) -> dict[str, Any]:
    """What `limit`, `after` and `order` say of a list whose newest stand first."""
    query = request.query_params
    limit = query.get("limit", str(DEFAULT_PAGE))
    if not limit.isdigit() or not 1 <= int(limit) <= MAX_PAGE:
        raise BadRequest(f"`limit` must be a number from 1 to {MAX_PAGE}", param="limit")
    documents = [one.document() for one in found]
    if query.get("order") == "asc":
        documents.reverse()
    if after := query.get("after"):
        ids = [document["id"] for document in documents]
        documents = documents[ids.index(after) + 1 :] if after in ids else []
    shown_here = documents[: int(limit)]
    return {
        "object": "list",
        "data": shown_here,
        "first_id": shown_here[0]["id"] if shown_here else None,
        "last_id": shown_here[-1]["id"] if shown_here else None,
        "has_more": len(documents) > len(shown_here),
    }
