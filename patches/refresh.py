"""Turns the patch series into a git repository to work in, and back. Usage: patches/README.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "cmake"))
import llama_cpp_source as source  # noqa: E402

IDENTITY = ["-c", "user.name=llama-dflash", "-c", "user.email=llama-dflash@localhost", "-c", "commit.gpgsign=false"]
UPSTREAM = "vendor/llama.cpp/"


def git(tree: Path, *args: str, input: str | None = None) -> str:
    done = subprocess.run(["git", *IDENTITY, *args], cwd=tree, input=input, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"git {' '.join(args)} in {tree}:\n{done.stdout}{done.stderr}")
    return done.stdout


def pinned(name: str) -> str:
    return re.search(rf"set\(LLAMA_CPP_PYTHON_{name} (\S+)\)", (CHECKOUT / "CMakeLists.txt").read_text()).group(1)


def start(tree: Path) -> None:
    """Unpacks the pinned source and commits the series on it, one commit a patch."""
    archive = source.find_archive(pinned("VERSION"), pinned("SHA256"), None, source.default_cache_dir())
    source.unpack(archive, tree)
    git(tree, "init", "-q")
    git(tree, "add", "-Af")
    git(tree, "commit", "-qm", f"llama-cpp-python {pinned('VERSION')}")
    git(tree, "tag", "upstream")
    mails = [as_mail(path, prefix) for path, prefix in source.list_patches(CHECKOUT / "patches")]
    for mail in mails:
        git(tree, "am", "--3way", "--keep-cr", input=mail)
    print(f"{tree}: {len(mails)} patches applied")


def as_mail(path: Path, prefix: str) -> str:
    """The patch as `git am` wants it: the file's name as subject, paths from the sdist's top."""
    message, diff = re.split(r"(?m)^(?=diff --git )", path.read_text(), maxsplit=1)
    subject = path.stem.split("-", 1)[1].replace("-", " ")
    diff = re.sub(r"(?m)^(diff --git a/)(.+ b/)", rf"\1{prefix}\2{prefix}", diff)
    diff = re.sub(r"(?m)^(--- a/|\+\+\+ b/)", rf"\1{prefix}", diff)
    return f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nFrom: llama-dflash <llama-dflash@localhost>\nSubject: [PATCH] {subject}\n\n{message}\n{diff}"


def save(tree: Path) -> None:
    """Writes patches/ anew from the commits above the tag `upstream`."""
    commits = git(tree, "rev-list", "--reverse", "upstream..HEAD").split()
    numbers = {"": 0, UPSTREAM: 0}
    written = []
    for commit in commits:
        files = git(tree, "diff-tree", "--no-commit-id", "--name-only", "-r", commit).split()
        prefixes = {UPSTREAM if f.startswith(UPSTREAM) else "" for f in files}
        if len(prefixes) != 1:
            sys.exit(f"commit {commit[:9]} touches both llama_cpp/ and {UPSTREAM}, or nothing: split it")
        prefix = prefixes.pop()
        numbers[prefix] += 1
        subject, _, message = git(tree, "log", "-1", "--format=%B", commit).strip().partition("\n")
        name = f"{numbers[prefix]:04}-{re.sub(r'[^A-Za-z0-9]+', '-', subject).strip('-')}.patch"
        relative = [f"--relative={prefix}"] if prefix else []
        diff = git(tree, "diff", "--no-renames", *relative, f"{commit}~", commit)
        written.append((CHECKOUT / "patches" / ("" if prefix else "python") / name, f"{message.strip()}\n\n{diff}"))
    for path, _ in source.list_patches(CHECKOUT / "patches"):
        path.unlink()
    for path, text in written:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(path.relative_to(CHECKOUT))


if __name__ == "__main__":
    commands = {"start": start, "save": save}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        sys.exit("usage: python patches/refresh.py start|save DIRECTORY")
    commands[sys.argv[1]](Path(sys.argv[2]).resolve())
