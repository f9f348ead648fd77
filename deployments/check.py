"""`python -m deployments.check FILE`: is this Serve config file right? Ends with 0, or with 1 and one sentence.

By default the file alone is looked at, as a build server can: every key at every level, every value, the names of the
deployments. With `--here` the model, the card and the memory of this machine too.
"""

import argparse
import sys
from pathlib import Path

from deployments.serving.serve_file import num_gpus, read_serve_file
from deployments.startup.settings import WrongSetting
from deployments.startup.start import check_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run` reads; `sluice check` takes the same."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--here", action="store_true", help="also look for the model, the card and the memory here")


def run(options: argparse.Namespace) -> int:
    """Check each file; 1 if one is wrong."""
    wrong = False
    for path in options.files:
        try:
            file = read_serve_file(path)
            if options.here:
                check_here(file.args, num_gpus(file))
        except WrongSetting as error:
            wrong = True
            print(f"{path}: {error}", file=sys.stderr)
        else:
            print(f"{path}: right")
    return int(wrong)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m deployments.check", description="Check Serve config files.")
    add_arguments(arguments)
    sys.exit(run(arguments.parse_args()))
