"""HAProxy's configuration as Ray writes it, mended by our script before HAProxy reads it."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from deployments.serving import haproxy

AS_RAY_WRITES_IT = """global
    maxconn 4096
defaults
    mode http
    timeout client 3600s
    timeout server 3600s
    timeout connect 5s
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 0.0.0.0:8000
    mode http
listen stats
  bind *:8404
  stats enable
"""


@pytest.fixture
def mended(tmp_path: Path) -> str:
    (tmp_path / "500.http").write_text("HTTP/1.1 500 no\r\n\r\n", encoding="utf-8")
    config = tmp_path / "haproxy.cfg"
    config.write_text(AS_RAY_WRITES_IT.format(folder=tmp_path), encoding="utf-8")
    said = haproxy.environment("/bin/true", tmp_path, 300.0)
    for _ in range(2):  # Ray starts it again on the same file
        subprocess.run([said["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)], check=True)
    return config.read_text(encoding="utf-8")


def test_only_the_application_listens_beyond_loopback(mended: str) -> None:
    binds = [line.split()[1] for line in mended.splitlines() if line.split()[0] == "bind"]
    assert binds == ["127.0.0.1:9101", "0.0.0.0:8000", "127.0.0.1:8404"]


def test_heads_have_a_time_limit_and_errors_openais_shape_once(mended: str) -> None:
    assert mended.count("timeout http-request 30s") == 1
    pages = [line.split()[1:] for line in mended.splitlines() if line.split()[0] == "errorfile"]
    assert [status for status, _ in pages] == ["400", "408", "502", "503", "504"]
    for status, page in pages:
        head, _, body = Path(page).read_bytes().partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert f"content-length: {len(body)}".encode() in head
        assert body.startswith(b'{"error": {"message": ')


def test_servers_that_something_else_starts_get_the_same_configuration(
    mended: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if haproxy.binary() is None:
        pytest.skip("ray[serve] brings no HAProxy here")
    assert haproxy.main([str(tmp_path / "image")]) == 0
    script = Path(capsys.readouterr().out.strip())
    config = tmp_path / "haproxy.cfg"
    config.write_text(AS_RAY_WRITES_IT.format(folder=tmp_path), encoding="utf-8")
    checked = subprocess.run([script, "-c", "-f", str(config)], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()
    assert config.read_text(encoding="utf-8") == mended.replace(str(tmp_path), str(script.parent))


def test_haproxy_itself_takes_it(mended: str, tmp_path: Path) -> None:
    program = haproxy.binary()
    if program is None:
        pytest.skip("ray[serve] brings no HAProxy here")
    checked = subprocess.run([program, "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()


def test_ray_still_writes_what_the_script_looks_for() -> None:
    for place in (
        "\nfrontend prometheus\n    bind :",
        "\ndefaults\n",
        "\nlisten stats\n  bind *:",
        "    errorfile 502 ",
    ):
        assert place in HAPROXY_CONFIG_TEMPLATE


def test_who_does_not_want_it_goes_without() -> None:
    assert haproxy.use_haproxy({"RAY_SERVE_ENABLE_HA_PROXY": "0"}) is None


def test_what_was_started_in_its_name_is_ended_and_nothing_else(tmp_path: Path) -> None:
    program = tmp_path / "stands-in"
    program.write_text("#!/bin/sh\nwhile :; do sleep 0.05; done\n", encoding="utf-8")
    program.chmod(0o755)
    script = haproxy.environment(str(program), tmp_path, 60)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    other = subprocess.Popen(["sleep", "60"])
    with (tmp_path / "haproxy.pids").open("a", encoding="utf-8") as noted:
        noted.write(f"{other.pid}\n")
    config = tmp_path / "haproxy.cfg"
    config.write_text("defaults\n", encoding="utf-8")
    started = subprocess.Popen([script, "-f", str(config)])
    while str(program).encode() not in Path(f"/proc/{started.pid}/cmdline").read_bytes():
        time.sleep(0.01)
    haproxy.end_all(tmp_path)
    assert started.wait(10) == -signal.SIGTERM
    assert other.poll() is None
    other.kill()
    other.wait()
