"""Runs vendor/ggml-tree-ops/tests/test-attention.cpp, compiled here, over the installed libraries."""

import os
import subprocess

import pytest

CHECKS = [
    "a_query_depends_on_nothing_but_the_cells_it_sees",
    "results_are_close_to_the_exact_ones",
    "the_number_of_threads_changes_nothing",
    "what_hidden_cells_hold_does_not_matter",
]


@pytest.fixture(scope="module")
def run(compiled):
    program = compiled("test-attention")
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "GGML_CPU_ALL_THREADS": "1", "GGML_NO_BACKTRACE": "1"}
    return lambda *args: subprocess.run([str(program), *args], env=environment, capture_output=True, text=True, timeout=300)


def test_every_check_is_run_here(run):
    assert run("list").stdout.split() == CHECKS


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("check", CHECKS)
def test_attention_of_few_queries(run, check, threads):
    done = run(check, threads)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr
