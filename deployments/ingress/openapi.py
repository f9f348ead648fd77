"""`/openapi.json` and `/docs`: which paths there are and what their bodies hold, made from what reads them."""

import html
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response
from starlette.routing import Route

from deployments.ingress.anthropic.messages import MessagesRequest
from deployments.ingress.batches.api import BatchRequest
from deployments.ingress.openai.completions import CompletionRequest
from deployments.ingress.openai.responses import ResponsesRequest
from deployments.ingress.openai.schema import ChatRequest
from deployments.ingress.tokens import DetokenizeRequest, TokenizeRequest

_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": MessagesRequest,
    "/v1/batches": BatchRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
_REF = "#/components/schemas/{model}"


def version() -> str:
    """Of the installed distribution; a checkout that is not installed has none."""
    try:
        return metadata.version("sluice")
    except metadata.PackageNotFoundError:
        return "unknown"


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for route in routes:
        for method in sorted((route.methods or set()) - {"HEAD"}):
            operation: dict[str, Any] = {"responses": {"200": {"description": "OK"}}}
            model = _BODIES.get(route.path)
            if model is not None and method == "POST":
                schemas |= _schemas(model)
                content = {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
                operation["requestBody"] = {"required": True, "content": content}
            paths.setdefault(route.path.replace(":path", ""), {})[method.lower()] = operation
    info = {"title": "Sluice", "version": version()}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _schemas(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=_REF)
    inner: dict[str, Any] = schema.pop("$defs", {})
    return inner | {model.__name__: schema}


def docs_page(routes: Sequence[Route]) -> Response:
    """A plain list: nothing is loaded from anywhere."""
    document = openapi_document(routes)
    rows = []
    for path, methods in document["paths"].items():
        model = _BODIES.get(path)
        fields = ", ".join(model.model_fields) if model is not None else ""
        said = " ".join(method.upper() for method in methods)
        rows.append(f"<tr><td>{said}</td><td><code>{html.escape(path)}</code></td><td>{html.escape(fields)}</td></tr>")
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Sluice</title>"
        "<style>body{font:16px sans-serif;max-width:70em;margin:2em auto}td{padding:.4em;vertical-align:top}</style>"
        "<h1>Sluice</h1><p>Bodies in full: <a href=openapi.json>openapi.json</a></p>"
        f"<table><tr><th>method<th>path<th>fields of the body</tr>{''.join(rows)}</table></html>"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return Response(page, media_type="text/html", headers={"content-security-policy": policy})
