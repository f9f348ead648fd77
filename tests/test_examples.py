"""The examples of the documents at `/docs` and of the README do what they say: each block of Python is run, and what it
prints is what stands below it.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from deployments.config import AppConfig
from deployments.demo.samples import write_samples
from tests.support.application import RunningApp

ROOT = Path(__file__).parent.parent
DOCUMENTS = {"docs": ROOT / "deployments/ingress/playground/page/docs.md", "README": ROOT / "README.md"}
EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n\n```\n(?P<printed>.*?)```\n", re.DOTALL)
SETTINGS = re.compile(r"```yaml\n(?P<text>args:\n.*?)```\n", re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def examples() -> Iterator[object]:
    """Code and what it prints, each under the heading that it stands below."""
    for name, path in DOCUMENTS.items():
        text = path.read_text(encoding="utf-8")
        for match in EXAMPLE.finditer(text):
            heading = HEADING.findall(text[: match.start()])[-1]
            yield pytest.param(match["code"], match["printed"], id=f"{name}: {heading}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would stand: `samples` is below it."""
    folder = tmp_path_factory.mktemp("reader")
    list(write_samples(folder / "samples"))
    return folder


@pytest.fixture(scope="module")
def samples_url(folder: Path) -> Iterator[str]:
    """`python -m http.server` over the samples."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder / "samples"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("code", "printed"), examples())
def test_an_example_prints_what_stands_below_it(
    code: str, printed: str, app: RunningApp, folder: Path, samples_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    here = code.replace("http://localhost:8000", app.url).replace("http://127.0.0.1:8080", samples_url)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(here, "example", "exec"), {"__name__": "__main__"})
    assert said.getvalue() == printed


def test_there_is_an_example_of_everything_that_clients_send() -> None:
    text = DOCUMENTS["docs"].read_text(encoding="utf-8")
    code = "".join(match["code"] for match in EXAMPLE.finditer(text))
    assert code.count("OpenAI(") == text.count("OpenAI(")  # none that nothing runs
    for sent in ("image_url", "video_url", "input_audio", "stream=True", "json_schema", "api_key", "timeout", "8080"):
        assert sent in code


def test_settings_in_the_documents_are_settings() -> None:
    for path in DOCUMENTS.values():
        for match in SETTINGS.finditer(path.read_text(encoding="utf-8")):
            AppConfig.model_validate(yaml.safe_load(match["text"])["args"])
