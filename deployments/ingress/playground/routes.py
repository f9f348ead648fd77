"""The playground at `/` and the documents at `/docs`: static files; their policy lets them load nothing else."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
ADDRESSES = {"index.html": "/", "docs.html": "/docs"}
"""All others stand below `/page/`, by their path in the folder."""

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".flac": "audio/flac",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".mp4": "video/mp4",
    ".png": "image/png",
}
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def playground_routes() -> list[Route]:
    """One route a file, read into memory now: what is not in the folder cannot be asked for."""
    files = [path for path in sorted(FOLDER.rglob("*")) if path.suffix in MEDIA_TYPES]
    return [_route(path) for path in files]


def _route(path: Path) -> Route:
    inside = path.relative_to(FOLDER).as_posix()
    content = path.read_bytes()
    headers = {**HEADERS, "content-type": MEDIA_TYPES[path.suffix]}

    async def send_file(request: Request) -> Response:
        return Response(content, headers=headers)

    return Route(ADDRESSES.get(inside, f"/page/{inside}"), send_file, methods=["GET"])
