"""Threads that wait for each other: vendor/ggml-tree-ops/cpu/threads-cpu.cpp, alone and in a model beside busy processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = [
    "all_threads_compute_while_none_waits_long",
    "long_graphs_are_tried_seldom_too",
    "no_thread_passes_before_all_have_come",
    "short_disturbances_change_nothing",
    "the_longest_wait_is_reported",
    "threads_come_back_when_processors_are_free_again",
    "threads_that_cost_more_than_they_bring_are_left_out",
]


@pytest.fixture(scope="module")
def run(compiled):
    program = compiled("test-threads")
    return lambda check: subprocess.run([str(program), check], capture_output=True, text=True, timeout=60)


def test_every_check_is_run_here(run):
    assert run("list").stdout.split() == CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_threads(run, check):
    done = run(check)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two processors")
def test_beside_busy_processes_two_threads_are_not_much_slower_than_one():
    """With barriers that only spin, two threads had 0.12 to 0.27 of the speed of one here."""
    command = [sys.executable, ROOT / "benchmarks" / "shared_processors.py", ROOT / "models" / "tiny-qwen35.gguf"]
    command += ["--rows", "1", "--busy", "2", "--seconds", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    speed = json.loads(done.stdout)["forwards a second by threads"]
    assert speed["2"] > 0.4 * speed["1"], speed
