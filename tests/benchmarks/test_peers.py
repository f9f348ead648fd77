"""Which server a name on the command line means, and how it is started."""

import sys
from urllib.request import urlopen

import pytest

from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.peers import peer
from benchmarks.kit.servers import OwnServer

SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{sys.argv[2]} {os.environ['GREETING']}".encode())
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("http://10.0.0.1:8000/", "10.0.0.1:8000", "http://10.0.0.1:8000"),
        ("other=https://host/v", "other", "https://host/v"),
    ],
)
def test_a_url_is_measured_as_it_is(text, name, url):
    server = peer(text, "demo")
    assert (server.name, server.url, server.pid) == (name, url, None)


def test_a_command_is_started_with_model_port_and_environment_and_ends_with_the_block(tmp_path):
    script = tmp_path / "my server.py"
    script.write_text(SERVER)
    with peer(f"mine=GREETING='good day' {sys.executable} '{script}' {{port}} {{model}}", "a/model") as server:
        assert urlopen(server.url).read() == b"a/model good day"
        port_was_open = server.url
    with pytest.raises(OSError, match="refused"):
        urlopen(port_was_open, timeout=1)


def test_transformers_is_not_asked_for_what_it_refuses():
    server = peer("transformers", "a/model")
    assert isinstance(server, OwnServer)
    assert server.model == "a/model"
    asked = server.workload(WorkloadSpec(exact_length=True, max_tokens=9))
    assert not asked.exact_length
    assert asked.options == (("generation_config", '{"min_new_tokens": 9}'),)


@pytest.mark.parametrize("text", ["mine", "mine=", "mine=A=1"])
def test_a_name_without_a_program_is_refused(text):
    with pytest.raises(ValueError, match="NAME=COMMAND"):
        peer(text, "demo")
