import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from benchmarks.kit.harness import compare, in_subprocess
from benchmarks.kit.processes import MemoryWatch, end, footprint, tree

HELD = 64 * 2**20
HOLD_MEMORY = f"""
import subprocess, sys, time
held = bytearray(b"x" * {HELD})
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", flush=True)
time.sleep(600)
"""


def start(program):
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def allocate(size):
    return len(bytearray(b"x" * size))


def test_a_footprint_counts_the_whole_tree():
    process = start(HOLD_MEMORY)
    try:
        found = footprint(process.pid)
        assert found.processes == 2
        assert found.threads == 2
        assert found.memory_bytes > HELD > found.shared_bytes
        with MemoryWatch(process.pid, interval_s=0.05) as watch:
            pass
        assert watch.peak_bytes > HELD
    finally:
        end(process)


def test_ending_a_server_leaves_none_of_its_processes():
    process = start(HOLD_MEMORY)
    family = tree(process.pid)
    end(process)
    assert len(family) == 2
    assert not any(member.is_running() for member in family)
    assert footprint(process.pid).processes == 0


def test_a_server_that_does_not_hear_ctrl_c_is_asked_in_another_way():
    process = start("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + HOLD_MEMORY)
    end(process, timeout_s=3)
    assert process.returncode == -signal.SIGTERM


def test_peak_memory_is_that_of_the_function_alone():
    held = bytearray(b"x" * (4 * HELD))
    result, peak_bytes = in_subprocess(allocate, HELD)
    assert result == HELD
    assert HELD < peak_bytes < len(held)


def test_a_process_that_does_not_end_ends_itself(capfd):
    with pytest.raises(BrokenProcessPool):
        in_subprocess(time.sleep, 600, most_s=0.1)
    assert "Timeout" in capfd.readouterr().err


def test_contenders_take_turns_and_warm_ups_do_not_count():
    turns = []
    timings = compare({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=2, warmup=1)
    assert "".join(turns) in ("abbaab", "baabba")
    assert {name: len(timing.wall_s) for name, timing in timings.items()} == {"a": 2, "b": 2}
    assert all(timing.wall_ms > 0 for timing in timings.values())
