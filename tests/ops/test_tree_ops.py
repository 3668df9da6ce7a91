"""Runs vendor/ggml-tree-ops/tests/test-tree-ops.cpp, compiled here, over the installed libraries."""

import os
import subprocess

import pytest

CHECKS = [
    "a_gpu_agrees_with_the_cpu",
    "a_graph_runs_again_for_other_trees",
    "a_silu_after_the_convolution_is_fused_on_a_gpu",
    "a_wrong_parent_or_value_is_noticed",
    "chain_of_all_sequences_equals_the_chain_op",
    "copies_in_a_row_keep_their_order",
    "indices_out_of_range_are_harmless",
    "plans_for_a_gpu_find_every_parents_state",
    "random_trees_equal_the_chain_op_over_each_path",
    "rpc_passes_them_on",
    "special_trees_equal_the_chain_op_over_each_path",
    "states_go_where_they_are_told_to",
    "the_cpu_computes_what_a_gpu_does_not_take",
    "the_scheduler_runs_them",
    "they_are_registered",
    "trees_agree_with_a_plain_reference",
]

WRONG_GRAPHS = {
    "parents-length": "ggml_gated_delta_net_tree: parents has shape [5, 1, 1, 1], expected [4, 1, 1, 1]",
    "parents-type": "ggml_gated_delta_net_tree: parents is of type f32, expected i32",
    "key-heads": "ggml_gated_delta_net_tree: q has 3 heads, expected a divisor of v's 2",
    "state-shape": "ggml_gated_delta_net_tree_persist: states has shape [16, 16, 1, 1], expected [16, 16, 2, 1]",
    "state-layout": "ggml_gated_delta_net_tree_persist_inplace: states is not contiguous",
    "rows-of-two": "ggml_gated_delta_net_tree_persist: rows has shape [2, 1, 1, 1], expected [2, 2, 1, 1]",
    "conv-states": "ggml_ssm_conv_tree: states has shape [16, 1, 1, 1], expected [24, 1, 1, 1]",
}


@pytest.fixture(scope="module")
def run(compiled):
    program = compiled("test-tree-ops")

    def start(*args: str) -> subprocess.CompletedProcess:
        # threads that wait without spinning: the graphs are tiny, and cores may be busy with other tests
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"}
        return subprocess.run([str(program), *args], env=environment, capture_output=True, text=True, timeout=300)

    return start


def test_every_check_is_run_here(run):
    assert run("list").stdout.split() == CHECKS


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("check", CHECKS)
def test_tree_ops(run, check, threads):
    expect_ok_or_skip(run(check, str(threads)))


@pytest.mark.gpu
@pytest.mark.parametrize("check", CHECKS)
def test_tree_ops_on_a_gpu(run, check):
    done = run(check, "1", "--backend", "CUDA0")
    if "no device CUDA0" in done.stderr:
        pytest.skip("the tree ops have kernels for CUDA, and there is " + done.stderr.strip())
    expect_ok_or_skip(done)


def expect_ok_or_skip(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    if "skipped" in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[0])


@pytest.mark.parametrize("graph", WRONG_GRAPHS)
def test_a_wrong_graph_says_what_was_found_and_expected(run, graph):
    done = run("abort", graph)
    assert done.returncode != 0
    assert WRONG_GRAPHS[graph] in done.stderr
