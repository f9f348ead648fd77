"""The page's files: what is served, under which policy, and that what others wrote is what they published."""

import hashlib
import re

import httpx

from deployments.config import AppConfig, IngressConfig
from deployments.demo.samples import SAMPLES
from deployments.ingress.playground.routes import FOLDER, MEDIA_TYPES
from tests.support.fakes import FakeApplication

VENDOR = FOLDER / "vendor"
IMPORT = re.compile(r'(?:from|import) "(?P<file>\./[^"]+)"')


async def get(path: str, config: AppConfig | None = None) -> httpx.Response:
    async with FakeApplication(config).client() as client:
        return await client.get(path)


async def test_every_file_of_the_page_is_served_as_what_it_is_and_may_load_nothing_from_elsewhere() -> None:
    for path in FOLDER.rglob("*"):
        if path.suffix in MEDIA_TYPES:
            inside = path.relative_to(FOLDER).as_posix()
            answer = await get({"index.html": "/", "docs.html": "/docs"}.get(inside, f"/page/{inside}"))
            assert (answer.status_code, answer.content) == (200, path.read_bytes()), inside
            assert answer.headers["content-type"] == MEDIA_TYPES[path.suffix]
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "http" not in policy


async def test_without_the_page_there_are_no_documents_either() -> None:
    off = AppConfig(ingress=IngressConfig(playground=False))
    for path in ("/docs", "/page/app.js"):
        assert (await get(path, off)).status_code == 404


def test_what_a_script_imports_is_there() -> None:
    for script in FOLDER.glob("*.js"):
        for match in IMPORT.finditer(script.read_text(encoding="utf-8")):
            assert (FOLDER / match["file"]).is_file(), f"{script.name}: {match['file']}"


def test_what_others_wrote_is_as_they_published_it_with_its_licence() -> None:
    lines = (VENDOR / "SOURCES").read_text(encoding="utf-8").splitlines()
    listed = {}
    for line in lines:
        if not line.startswith("#"):
            package, _, _, name, digest = line.split()
            listed[name] = digest
            assert (VENDOR / f"LICENSE-{package}").stat().st_size > 500
    scripts = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.glob("*js")}
    assert scripts == listed


def test_the_pages_samples_are_the_demo_models_own() -> None:
    served = {path.name for path in (FOLDER / "samples").iterdir()}
    offered = re.findall(r'\["([\w.-]+\.\w+)", ', (FOLDER / "samples.js").read_text(encoding="utf-8"))
    assert served == set(offered) <= {sample.name for sample in SAMPLES}
