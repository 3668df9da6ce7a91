"""The scripts of benchmarks/gpu, on the CPU: a small random pair, a fake llama-server, a profile as ncu writes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

jsonschema = pytest.importorskip("jsonschema")

CHECKOUT = Path(__file__).resolve().parents[2]
GPU = CHECKOUT / "benchmarks" / "gpu"
sys.path.append(str(CHECKOUT / "tests"))

import drafter_models  # noqa: E402
import models  # noqa: E402

ON_CPU = ["--n-gpu-layers", 0, "--threads", 1]

NCU = '''==PROF== Connected to process 7
"ID","Process ID","Kernel Name","gpu__time_duration.sum","dram__bytes.sum","dram__throughput.avg.pct_of_peak_sustained_elapsed"
"","","","ns","byte","%"
"0","7","void mul_mat_q<(ggml_type)12, 32>(const char *, float *)","3000","9000000","80"
"1","7","void mul_mat_q<(ggml_type)12, 32>(const char *, float *)","1,000","1000000","40"
"2","7","rms_norm_f32(const float *, float *)","500","0","0"
'''


def script(name, *args):
    command = [sys.executable, str(GPU / name), *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    target = models.write_hybrid(folder / "target.gguf", "qwen35")
    drafter_models.write_drafter(folder / "drafter.gguf", target)
    server = folder / "llama-server"
    server.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("fake_llama_server.py")}" "$@"\n')
    server.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Everything measured once."""
    out, pair = folder / "results.json", ["--target", folder / "target.gguf", "--drafter", folder / "drafter.gguf"]
    short = ["--sizes", "1,9", "--turns", 2, "--rounds", 6, "--budgets", "8,4", "--lengths", "3.5,real"]
    script("round.py", *pair, *ON_CPU, *short, "--context", 64, "--prefill-without", "--samplers", "--out", out)
    script("round.py", *pair, *ON_CPU, *short, "--context", 2048, "--kv", "q8_0", "--full-window", "--out", out)
    script("chain.py", *pair, *ON_CPU, "--llama-server", folder / "llama-server", "--vocab", 300, "--prompt", 9, "--out", out)
    (folder / "ncu.csv").write_text(NCU)
    script("kernels.py", "sum", "--csv", folder / "ncu.csv", "--kind", "verify", "--n", 23, "--out", out)
    script("results.py", out, "round at 64", 1.5, 0)
    return json.loads(out.read_text())


def test_results_are_what_their_schema_says(results):
    schema = json.loads((GPU / "results.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(results)


def test_rounds_accept_what_was_asked_for(results):
    rounds = results["contexts"]["64"]["rounds"]
    assert [(r["budget"], r["length_asked"], r["nodes"]) for r in rounds] == [(8, 3.5, 8), (4, 3.5, 4), (8, None, 8)]
    assert all(3 <= r["length"] <= 4 for r in rounds[:2])
    assert all(sum(r["phases_ms"].values()) > 0.1 * r["ms"] > 0 for r in rounds)  # of medians, on a busy machine too


def test_rounds_at_temperature_are_timed_with_usual_samplers(results):
    sampled = results["contexts"]["64"]["sampled"]
    assert len({r["sampler"] for r in sampled}) == len(sampled) == 4
    assert all((r["budget"], r["length_asked"]) == (8, 3.5) and r["ms"] > 0 for r in sampled)


def test_every_size_is_timed_in_every_way(results):
    forwards = results["contexts"]["64"]["forwards"]
    assert len({(e["n"], e["kind"]) for e in forwards}) == len(forwards) == 2 * 4
    assert all(0 < e["ms_least"] <= e["ms"] <= e["ms_most"] and e["runs"] == 8 for e in forwards)


def test_a_full_window_leaves_room_for_the_rounds_alone(results):
    found = results["contexts"]["2048"]
    assert 1000 < found["filled"] < 2048 - 3 * 6


def test_kernels_are_summed_by_their_names(results):
    first, second = results["kernels"]["verify 23"]["kernels"]
    assert first == {"kernel": "mul_mat_q<(ggml_type)12, 32>", "launches": 2, "us": 4.0, "mb": 10.0, "bandwidth_percent": 70.0}
    assert (second["kernel"], second["launches"]) == ("rms_norm_f32", 1)


def test_the_tables_hold_every_part(results, folder):
    page = script("tables.py", folder / "results.json")
    for words in ("64 tokens of f16 KV", "2048 tokens of q8_0", "llama-server", "mul_mat_q", "round at 64", "projections"):
        assert words in page


def test_one_forward_of_every_kind_runs_for_the_profiler(folder):
    for kind in ("plain", "batch", "verify"):
        script("kernels.py", "run", "--target", folder / "target.gguf", "--kind", kind, "--n", 9, "--context", 32, *ON_CPU)


def test_the_models_of_a_preset_are_a_target_and_its_drafter(folder):
    """Loaded and measured like any others; a slice has the first layers."""
    made = folder / "made"
    said = script("models.py", "--preset", "tiny", "--out", made)
    assert all(f"{name}.gguf" in said for name in ("target", "drafter", "slice"))
    out = folder / "made.json"
    arguments = ["--context", 64, "--sizes", "1,5", "--turns", 1, "--rounds", 4, "--budgets", 8, "--lengths", 3.5]
    script("round.py", "--target", made / "target.gguf", "--drafter", made / "drafter.gguf", *arguments, *ON_CPU, "--out", out)
    assert json.loads(out.read_text())["contexts"]["64"]["rounds"][0]["nodes"] == 8
    script("models.py", "--preset", "tiny", "--out", made)  # nothing is written twice
    assert not list(made.glob("*.part"))


def test_random_weights_have_the_spread_of_trained_ones():
    sys.path.insert(0, str(GPU))
    import gguf
    import numpy as np
    from random_models import SPREAD, Type, random_weights

    rng = np.random.default_rng(0)
    for kind in (Type.F32, Type.BF16, Type.Q8_0, Type.Q4_K, Type.Q6_K):
        values = gguf.dequantize(random_weights(rng, (64, 1024), kind), kind)
        assert values.shape == (64, 1024) and np.isfinite(values).all()
        assert 0.3 * SPREAD < values.std() < 3 * SPREAD and abs(values.mean()) < 2 * SPREAD, kind


def test_a_gpu_that_is_not_there_is_named(folder):
    from llama_dflash import _library

    if _library.has_gpu():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(GPU / "round.py"), "--target", "t", "--drafter", "d", "--out", str(folder / "none.json")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and "no GPU" in done.stderr and not (folder / "none.json").exists()
