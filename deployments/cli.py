"""The command `sluice`: `sluice serve [MODEL]` and `sluice check FILE`."""

import argparse
import sys
import sysconfig
from pathlib import Path
from typing import Any

import deployments
from deployments import check
from deployments.serving.serve_file import OWN_BUILDER, ServeFile, check_tree, num_gpus, read_tree
from deployments.startup.house import check_house
from deployments.startup.settings import WrongSetting
from deployments.startup.start import check_here

CONFIG_NAME = "serve_config.yaml"


def shipped_config() -> Path:
    """The config file beside `graph.py` in a checkout, or the one that the wheel brought along."""
    checkout = Path(deployments.__file__).parent.parent / CONFIG_NAME
    return checkout if checkout.exists() else Path(sysconfig.get_path("data")) / "share" / "sluice" / CONFIG_NAME


def read_with(options: argparse.Namespace) -> ServeFile:
    """The config file with what the command line says laid over it. Raises `WrongSetting`."""
    tree = read_tree(options.config or shipped_config())
    http: dict[str, Any] = {"host": options.host, "port": options.port}
    if given := {key: value for key, value in http.items() if value is not None}:
        tree["http_options"] = {**(tree.get("http_options") or {}), **given}
    if options.model is not None:
        for application in tree.get("applications") or ():
            if application.get("import_path") == OWN_BUILDER:
                application["args"] = {**(application.get("args") or {}), "model": options.model}
    return check_tree(tree)


def serve(options: argparse.Namespace) -> int:
    """Check, then serve until told to stop."""
    try:
        check_house()
        file = read_with(options)
        check_here(file.args, num_gpus(file))
        from deployments.serving.launch import Launch, StartFailed, run  # Ray takes a second to import
    except WrongSetting as error:
        print(f"sluice: {error}", file=sys.stderr)
        return 2
    drain_s = file.args.ingress.request_timeout_s if options.drain_s is None else options.drain_s
    try:
        return run(Launch(file, drain_s, options.verbose))
    except (WrongSetting, StartFailed) as error:
        print(f"sluice: {error}", file=sys.stderr)
        return 2 if isinstance(error, WrongSetting) else 1
    except KeyboardInterrupt:
        return 130


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sluice", description="An OpenAI-compatible server for models that see.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serving = commands.add_parser("serve", help="serve a model on this machine until told to stop")
    serving.add_argument("model", nargs="?", metavar="MODEL", help="`demo`, a folder, or an id of the Hugging Face hub")
    serving.add_argument("--config", type=Path, metavar="FILE", help=f"a Serve config file; default: {CONFIG_NAME}")
    serving.add_argument("--host", help="address to listen on; 0.0.0.0 to be reached from other machines")
    serving.add_argument("--port", type=int, help="port to listen on")
    serving.add_argument("--drain-s", type=float, metavar="SECONDS", help="longest wait for running answers at the end")
    serving.add_argument("--verbose", action="store_true", help="show all that Ray's processes print")
    serving.set_defaults(command=serve)
    checking = commands.add_parser("check", help="check config files")
    check.add_arguments(checking)
    checking.set_defaults(command=check.run)
    options = parser.parse_args(arguments)
    return int(options.command(options))


if __name__ == "__main__":
    sys.exit(main())
