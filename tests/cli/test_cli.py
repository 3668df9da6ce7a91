"""`llama-dflash`: what it prints, and the exit codes."""

import json
import re
import subprocess
import sys

import jsonschema
import pytest

from llama_dflash import Llama, __version__, cli

BENCH = ["bench", "--target", "x", "--draft-model", "y", "--prompts", "z", "--out", "r"]


def test_help_and_version(command):
    shown = command("--help")
    assert shown.returncode == 0
    assert all(text in shown.stdout for text in ("examples:", *(name for name, _, _ in cli.COMMANDS)))
    assert command("--version").stdout == f"llama-dflash {__version__}\n"


@pytest.mark.parametrize(("arguments", "is_loaded"), [(["--version"], False), (["--help"], False), (["pairs"], False), (["doctor"], True)])
def test_what_needs_no_model_does_not_wait_for_llama_cpp(files, arguments, is_loaded):
    words = [sys.executable, "-X", "importtime", "-m", "llama_dflash", *arguments]
    done = subprocess.run(words, cwd=files, capture_output=True, text=True, timeout=60)
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert ("llama_cpp.llama_cpp" in imported) == ("numpy" in imported) == is_loaded


@pytest.mark.parametrize("name", [name for name, _, _ in cli.COMMANDS if name != "serve"])
def test_the_help_of_a_command_has_examples(capsys, name):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and re.search(rf"examples:\n  llama-dflash {name}\b", shown)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["convert", "x"],
        ["convert", "x", "--target", "y", "-o", "z", "--type", "q4_k"],
        ["info"],
        ["info", "x", "--ctx", "0"],
        ["bench"],
        ["bench", "--target", "x", "--draft-model", "y", "--prompts", "z"],
        [*BENCH, "--max-tokens", "0"],
        [*BENCH, "--tree-budgets", "4,many"],
        [*BENCH, "--server-lengths", "auto"],
        [*BENCH, "--n-gpu-layers", "-2"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("usage: llama-dflash")


def test_convert_writes_a_drafter_that_drafts(command, files):
    done = command("convert", "published", "--target", "target.gguf", "-o", "converted.gguf", "--type", "q8_0")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"wrote converted\.gguf \([\d.]+ KiB\)\n", done.stdout)
    llm = Llama(str(files / "target.gguf"), draft_model=files / "converted.gguf", n_ctx=256, n_threads=1, verbose=False)
    llm.create_completion("a", max_tokens=8)
    assert llm.speculative_stats.rounds > 0
    llm.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["convert", "no", "--target", "target.gguf", "-o", "x.gguf"],
            "llama-dflash convert: no such checkpoint: no\n",
        ),
        (["convert", "published", "--target", "target.gguf", "-o", "no/x.gguf"], "No such file or directory\n"),
        (["convert", "published", "--target", "drafter.gguf", "-o", "x.gguf"], "is a drafter itself"),
        (["info", "no.gguf"], "llama-dflash info: no such file: no.gguf\n"),
        (["info", "published/config.json"], "is no GGUF file: it starts with"),
        (
            ["info", "published"],
            "llama-dflash info: published is a folder, expected a GGUF file (`llama-dflash convert` makes one",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_problem_is_a_sentence_on_stderr_and_exit_code_1(command, arguments, message):
    done = command(*arguments)
    assert done.returncode == 1 and done.stdout == "" and message in done.stderr and done.stderr.count("\n") == 1


def test_info_for_people(command):
    done = command("info", "target.gguf", "drafter.gguf", "--ctx", "4096", "--type-k", "Q8_0", "--type-v", "q8_0")
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "  target, architecture llama",
        "  DFlash drafter, architecture dflash",
        "  4 layers, hidden size 64, 4 heads (2 for keys and values) of 32",
        "  drafts blocks of 16, mask token 316, reads the inputs of target layers 1, 3",
        "drafter.gguf fits target.gguf.",
        "Memory for a context of 4096 tokens (K q8_0, V q8_0; the drafter remembers 4096):",
    ):
        assert line in done.stdout.splitlines()


SCHEMA = {
    "type": "object",
    "required": ["files", "fits", "settings", "memory_bytes", "memory_not_counted"],
    "additionalProperties": False,
    "properties": {
        "files": {
            "type": "array",
            "items": {
                "type": "object",
                "required": [
                    "path",
                    "kind",
                    "architecture",
                    "quantisation",
                    "bytes",
                    "layers",
                    "hidden_size",
                    "vocabulary",
                    "memory",
                ],
                "properties": {
                    "kind": {"enum": ["target", "DFlash drafter", "DFlash2 drafter", "DSpark drafter"]},
                    "bytes": {"type": "integer", "minimum": 1},
                    "target_layers": {"type": "array", "items": {"type": "integer"}},
                },
            },
        },
        "fits": {"type": "array", "items": {"required": ["target", "drafter", "fits", "problems"]}},
        "settings": {"required": ["context", "type_k", "type_v", "draft_context"]},
        "memory_bytes": {"type": "integer"},
        "memory_not_counted": {"type": "array", "minItems": 1, "items": {"type": "string"}},
    },
}


def test_info_for_machines(command):
    facts = json.loads(command("info", "target.gguf", "drafter.gguf", "--json").stdout)
    jsonschema.validate(facts, SCHEMA)
    target, drafter = facts["files"]
    assert target["kind"] == "target" and drafter["kind"] == "DFlash drafter"
    assert drafter["block_size"] == 16 and drafter["target_layers"] == [1, 3] and drafter["mask_token"] == 316
    assert facts["fits"] == [{"target": "target.gguf", "drafter": "drafter.gguf", "fits": True, "problems": []}]
    assert facts["memory_bytes"] == sum(part["bytes"] for file in facts["files"] for part in file["memory"])


def test_the_module_and_the_command_are_the_same():
    from importlib.metadata import entry_points

    scripts = (
        entry_points().get("console_scripts", [])
        if sys.version_info < (3, 10)
        else entry_points(group="console_scripts")
    )
    found = [script for script in scripts if script.name == "llama-dflash"]
    if not found:
        pytest.skip("runs over a folder, not an installed llama-dflash")
    assert found[0].load() is cli.main
