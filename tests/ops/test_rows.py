"""Runs vendor/ggml-tree-ops/tests/test-rows.cpp, compiled here, over the installed libraries."""

import os
import subprocess

import pytest

CHECKS = [
    "a_row_does_not_depend_on_the_others",
    "a_tensor_comes_back_as_it_was",
    "activations_may_have_three_dimensions_and_gaps",
    "experts_equal_products_of_their_own",
    "extreme_values_are_right",
    "kernels_equal_their_plain_twin",
    "other_ops_and_odd_views_are_not_taken",
    "products_are_close_to_the_exact_ones",
]


@pytest.fixture(scope="module")
def run(compiled):
    program = compiled("test-rows")

    def start(*args: str, **environment: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1", **environment}
        return subprocess.run([str(program), *args], env=environment, capture_output=True, text=True, timeout=300)

    return start


def test_every_check_is_run_here(run):
    assert run("list").stdout.split() == CHECKS


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("check", CHECKS)
def test_interleaved_rows(run, check, threads):
    done = run(check, str(threads))
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout[9:].strip())
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr


def test_the_environment_switches_the_buffer_type_off(run):
    done = run("kernels_equal_their_plain_twin", GGML_CPU_ROWS="0")
    assert done.stdout.startswith("skipped: "), done.stdout
