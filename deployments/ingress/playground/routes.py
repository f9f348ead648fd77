"""The playground at `/`: static files beside this module, sent with a policy that lets them load nothing else."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data: blob:; "
        "media-src data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def playground_routes() -> list[Route]:
    """One route a file, read into memory now: what is not in the folder cannot be asked for."""
    files = [path for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES]
    return [_route("/" if path.name == "index.html" else f"/page/{path.name}", path) for path in files]


def _route(address: str, path: Path) -> Route:
    content = path.read_bytes()
    headers = {**HEADERS, "content-type": f"{MEDIA_TYPES[path.suffix]}; charset=utf-8"}

    async def send_file(request: Request) -> Response:
        return Response(content, headers=headers)

    return Route(address, send_file, methods=["GET"])
