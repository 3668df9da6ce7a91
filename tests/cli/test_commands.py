"""The commands around `run`: pairs, tune, doctor, completion, and the short names of pull."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from llama_dflash import cli, health, tuning


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch, files):
    monkeypatch.setenv("LLAMA_DFLASH_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("LLAMA_DFLASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(files)


@pytest.fixture
def one_cpu():
    """For commands that take all CPUs by default; the models are too small for more than one."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    yield
    os.sched_setaffinity(0, cpus)


def test_pairs_lists_what_is_known(capsys):
    assert cli.main(["pairs", "qwen3.5-27b"]) == 0
    shown = capsys.readouterr().out
    assert "DFlash   z-lab/Qwen3.5-27B-DFlash" in shown and "llama-dflash run Qwen3.5-27B-Q4_K_M.gguf --draft-model z-lab/" in shown
    assert cli.main(["pairs", "target.gguf"]) == 1 and "No drafter is known for target.gguf" in capsys.readouterr().out
    assert cli.main(["pairs", "--json"]) == 0 and len(json.loads(capsys.readouterr().out)) > 20


def test_tune_finds_what_is_fastest_and_run_takes_it(command, files, capsys, one_cpu):
    assert cli.main(["tune", "target.gguf", "--draft-model", "drafter.gguf", "--seconds", "1", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert {"plain", "ngram", "drafter.gguf", "drafter.gguf and ngram"} <= set(found["measured"])
    assert found["tokens_per_second"] == max(found["measured"][name] for name in found["measured"] if "threads" not in name)
    assert "plain decoding:" in captured.err and found["file"] == str(tuning.result_file("target.gguf"))
    assert tuning.find("target.gguf") == tuning.find(str(files / "target.gguf")) is not None
    assert tuning.find("drafter.gguf") is None
    done = command("run", "target.gguf", "--json", "--max-tokens", "4", "0123")
    assert done.returncode == 0 and json.loads(done.stdout)["notes"] == [], done.stderr  # nothing was looked up


def test_what_was_learned_is_used_for_the_same_drafters_only(files):
    learned = files / "learned"
    learned.write_text("")
    path = tuning.result_file("target.gguf")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**vars(tuning.Tuned(1, ["ngram"], "auto", 2.0, 1.0, str(learned), {})), "format": tuning.FORMAT}))
    assert tuning.with_learned("target.gguf", ["ngram"])[0].tuned == str(learned)
    assert tuning.with_learned("target.gguf", ["drafter.gguf", "ngram"])[0].tuned is None
    path.write_text("{}")
    assert tuning.find("target.gguf") is None


def test_pull_gives_a_file_a_short_name(capsys, command, one_cpu):
    assert cli.main(["pull", "target.gguf", "--draft-model", "drafter.gguf,ngram", "--name", "Mine"]) == 0
    assert "llama-dflash run mine" in capsys.readouterr().out
    assert cli.main(["pull", "--names"]) == 0 and capsys.readouterr().out == "mine\n"
    assert cli.main(["pull"]) == 0 and "mine" in capsys.readouterr().out
    done = command("run", "mine", "0123", "--json", "--max-tokens", "4", "--ctx", "256")
    assert json.loads(done.stdout)["speculation"]["rounds"] > 0
    assert command("info", "mine", "ngram").returncode == 0


def test_pull_refuses_a_drafter_of_another_target(capsys, tmp_path):
    sys.path.append(str(tmp_path))
    from models import write_target

    other = str(write_target(tmp_path / "other.gguf", n_layer=4, n_embd=96))
    assert cli.main(["pull", other, "--draft-model", "drafter.gguf"]) == 1
    assert f"drafter.gguf does not fit {other}: the drafter has hidden size 64" in capsys.readouterr().err


def test_doctor_finds_that_all_is_well(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert "is plain decoding's" in found["drafting"]["found"] and "CPU" in found["devices"]["found"]
    assert {"llama-dflash", "Python", "llama_cpp", "processor", "threads", "cache"} <= set(found)
    assert cli.main(["doctor"]) == 0 and "All is well." in capsys.readouterr().out


def test_doctor_sees_another_llama_cpp_and_what_is_set(tmp_path, monkeypatch):
    fork = tmp_path / "site" / "llama_cpp"
    fork.mkdir(parents=True)
    (fork / "__init__.py").write_text('__version__ = "9.9.9-fork"\n')
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("GGML_CPU_ROWS", "0")
    (tmp_path / "file").write_text("")
    found = {finding.what: finding for finding in [*health._others(), *health._variables()]}
    assert "9.9.9-fork" in found["another llama_cpp"].found and "import llama_dflash before" in found["another llama_cpp"].remedy
    assert "GGML_CPU_ROWS=0" in found["environment"].found


def test_doctor_goes_on_after_a_surprise_and_says_it(monkeypatch, capsys):
    def surprise():
        raise RuntimeError("out of order")

    monkeypatch.setattr(health, "_devices", surprise)
    assert cli.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "RuntimeError: out of order" in shown and "1 of" in shown and "drafting" in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_one_of_its_shell(capsys, tmp_path, shell):
    assert cli.main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "--draft-model" in script.read_text() or "-l draft-model" in script.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n", str(script)], timeout=20).returncode == 0


def test_bash_completes_commands_options_and_files(capsys, tmp_path):
    cli.main(["completion", "bash"])
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)

    def completed(*words):
        line = " ".join(f"'{word}'" for word in words)
        code = f'source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _llama_dflash; printf "%s\\n" "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=20).stdout.split()

    assert completed("llama-dflash", "do") == ["doctor"]
    assert "--show-drafts" in completed("llama-dflash", "run", "--sh")
    assert "target.gguf" in completed("llama-dflash", "bench", "tar")
