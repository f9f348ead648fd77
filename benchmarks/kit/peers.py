"""Other servers beside Sluice, on the same checkpoint. What `--against` may name:

monolith                      the baseline kept here
transformers[=PROGRAM]        `transformers serve`, by default the `transformers` on the path; it needs `accelerate`
vllm[=PROGRAM]                `vllm serve` for the CPU, by default the `vllm` on the path
NAME=URL                      one that runs already
NAME=COMMAND                  any other: `{model}` and `{port}` are filled in, leading NAME=VALUE words are its
                              environment; it is ready when `/health` answers 200
"""

import argparse
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.servers import OwnServer, Server, monolith, sluice

_VLLM_OPTIONS = (
    "--max-model-len 4096 --max-num-seqs 32 --enforce-eager --mm-processor-cache-gb 0"
    """ --limit-mm-per-prompt '{"video": 1, "image": 4}'"""
)
"""Eager, since nothing compiles for a few minutes; no cache of processed media, since every file is a new one."""


def server_options(parser: argparse.ArgumentParser, against: Sequence[str]) -> None:
    """The options that `chosen` reads. `against`: default."""
    parser.add_argument("--url", help="measure this server ([NAME=]URL) instead of a Sluice started here")
    parser.add_argument("--against", nargs="*", default=list(against), help="several or none, see peers.py")
    parser.add_argument("--model", default="demo", help="checkpoint of the servers started here")
    parser.add_argument("--env", nargs="*", default=[], metavar="NAME=VALUE", help="for the Sluice started here")
    parser.add_argument("--settings", type=json.loads, default={}, metavar="JSON", help="laid over its `args:`")


def chosen(args: argparse.Namespace) -> list[Server]:
    """Sluice as `sluice serve` starts it, or what is measured in its place, and then the others."""
    env = dict(pair.split("=", 1) for pair in args.env)
    first = peer(args.url, args.model) if args.url else sluice(args.model, env=env, args=args.settings, launcher=True)
    return [first, *(peer(other, args.model) for other in args.against)]


def peer(text: str, model: str, dtype: str = "float32") -> Server:
    """What `text` names. `model`: `demo` or a local checkpoint. `dtype`: what the monolith and vLLM compute in."""
    name, _, rest = text.partition("=")
    if re.match(r"https?://", text):
        return Server(urlsplit(text).netloc, text.rstrip("/"))
    if re.match(r"https?://", rest):
        return Server(name, rest.rstrip("/"))
    if text == "monolith":
        return monolith(model, dtype)
    if name == "transformers":
        return _transformers(rest or name, model)
    if name == "vllm" and " " not in rest:
        command = f"VLLM_CPU_KVCACHE_SPACE=2 VLLM_NO_USAGE_STATS=1 {shlex.quote(rest or name)}"
        rest = f"{command} serve {{model}} --port {{port}} --dtype {dtype} {_VLLM_OPTIONS}"
    return _command(name, rest, model)


class _Transformers(OwnServer):
    """`transformers serve`. It refuses fields that OpenAI's own interface lacks, `ignore_eos` among them."""

    def workload(self, spec: WorkloadSpec) -> WorkloadSpec:
        if not spec.exact_length:
            return spec
        length = ("generation_config", json.dumps({"min_new_tokens": spec.max_tokens}))
        return replace(spec, exact_length=False, options=(*spec.options, length))


def _transformers(program: str, model: str) -> Server:
    text = f"{shlex.quote(program)} serve {{model}} --port {{port}} --device cpu"
    server = _command("transformers", text, model, _Transformers)
    server.model = model  # its list of models shows what was downloaded, not what it serves
    server.says_done = False
    return server


def _command(name: str, text: str, model: str, kind: type[OwnServer] = OwnServer) -> Server:
    words = [word.replace("{model}", model) for word in shlex.split(text)]
    env = dict(word.split("=", 1) for word in itertools.takewhile(re.compile("[A-Z_]+=").match, words))
    program = words[len(env) :]
    if not program:
        raise ValueError(f"{name!r} is neither a known server, nor NAME=URL, nor NAME=COMMAND")

    def command(port: int, folder: Path) -> Sequence[str]:
        return [word.replace("{port}", str(port)) for word in program]

    return kind(name, command, "/health", _apart(env))


def _apart(env: Mapping[str, str]) -> dict[str, str]:
    """Nothing of this project is on a peer's path."""
    return {"PYTHONPATH": "", **env}
