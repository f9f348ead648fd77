"""Kernels fit the registers of the cards they are made for; compiled here, where no card is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")


@pytest.mark.parametrize("card", ["80", "90"])
def test_kernels_compile_for_cards_without_spills(card):
    if not (Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump").exists():
        pytest.skip("this Triton carries no cuobjdump")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.model.compile_kernels", card]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) >= 10
    for kernel in kernels:
        assert kernel["stack"] == kernel["local"] == kernel["spills"] == 0, kernel
        assert kernel["reg"] <= 168, kernel  # three warps a scheduler
        assert kernel["shared"] <= 99 * 1024, kernel
