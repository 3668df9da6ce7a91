"""Runs vendor/ggml-tree-ops/tests/test-few-rows.cpp, compiled here, over the installed libraries: quantised products on a GPU."""

import os
import subprocess

import pytest

CHECKS = [
    "a_token_does_not_depend_on_how_many_there_are",
    "every_count_of_tokens_agrees_with_a_plain_reference",
    "norms_and_gates_before_products_agree_with_a_plain_reference",
    "products_in_a_row_agree_with_a_plain_reference",
    "what_the_kernel_does_not_take_is_still_right",
]
NO_DEVICE = 77


@pytest.fixture(scope="module")
def run(compiled):
    program = compiled("test-few-rows")

    def start(*args: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "GGML_CUDA_FEW_ROWS": "1"}  # also where it is not on by itself
        return subprocess.run([str(program), *args], env=environment, capture_output=True, text=True, timeout=300)

    return start


def test_every_check_is_run_here(run):
    assert run("list").stdout.split() == CHECKS


def test_products_that_ggml_computes_itself_agree_with_a_plain_reference(run):
    done = run("what_the_kernel_does_not_take_is_still_right", "CPU")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("check", CHECKS)
def test_few_rows_on_a_gpu(run, check):
    done = run(check, "CUDA0")
    if done.returncode == NO_DEVICE:
        pytest.skip("the kernel is one for CUDA, and there is " + done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
