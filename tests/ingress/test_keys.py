"""API keys from a file: needed once it is configured, changed without a restart, and never lost to a broken file."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from deployments.config import AppConfig, IngressConfig
from deployments.ingress.http.keys import ApiKeys
from tests.support.fakes import FakeApplication


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    changed_at = path.stat().st_mtime_ns + 1_000_000  # a quick test may write twice in one tick of the disk's clock
    os.utime(path, ns=(changed_at, changed_at))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "keys", "# team one\none\n\n  two  \n")


def test_a_file_holds_one_key_a_line(file: Path) -> None:
    keys = ApiKeys(IngressConfig(api_keys_file=file, api_keys=(SecretStr("three"),)))
    assert keys.needed
    assert all(keys.know(key) for key in (b"one", b"two", b"three"))
    assert not any(keys.know(key) for key in (b"", b"# team one", b"four"))


def test_a_key_comes_and_goes_with_the_file(file: Path) -> None:
    keys = ApiKeys(IngressConfig(api_keys_file=file))
    os.replace(write(file.with_name("next"), "two\nfour\n"), file)
    keys.reload()
    assert keys.know(b"four")
    assert not keys.know(b"one")


@pytest.mark.parametrize("text", ["", "\n# nothing but a remark\n", None])
def test_a_file_that_cannot_be_used_changes_nothing_and_stops_a_start(file: Path, text: str | None) -> None:
    keys = ApiKeys(IngressConfig(api_keys_file=file))
    if text is None:
        file.unlink()
    else:
        write(file, text)
    keys.reload()
    assert keys.know(b"one")
    with pytest.raises((OSError, ValueError)):
        ApiKeys(IngressConfig(api_keys_file=file))


async def test_the_server_asks_for_a_key_of_the_file(file: Path) -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(api_keys_file=file)))
    assert (await app.chat("hi")).status_code == 401
    assert (await app.chat("hi", headers={"authorization": "Bearer four"})).status_code == 401
    assert (await app.chat("hi", headers={"authorization": "Bearer one"})).status_code == 200
    write(file, "four\n")
    app.api.clients.keys.reload()
    assert (await app.chat("hi", headers={"authorization": "Bearer four"})).status_code == 200
