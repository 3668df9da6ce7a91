"""Gets the pinned llama-cpp-python source, checks it, unpacks it and patches it.

CMake runs this at every configure; it needs nothing but the standard library
(and pip, if the source has to be downloaded). The result is a directory with
the same layout as the sdist: `llama_cpp/` is the Python layer,
`vendor/llama.cpp/` the C++ source. `.llama-dflash.json` in it records where
the source came from and which patches are in; the unpatched text of every
patched file is kept in `.pristine/`, so that a changed patch rewrites only the
files whose text changes and ninja rebuilds only those.

Where the source comes from, first match wins:
  --source-dir   an unpacked llama-cpp-python sdist (or its vendor/llama.cpp)
  --sdist        the sdist file
  --cache-dir    the sdist file, kept from an earlier build
  pip download   from the package index that pip is configured for
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Dict, List, Optional, Tuple

STAMP = ".llama-dflash.json"
PRISTINE = ".pristine"


class SourceError(Exception):
    """What went wrong, in which step, and what to do about it."""


def say(text: str) -> None:
    print(f"-- llama.cpp source: {text}", flush=True)


# ---------------------------------------------------------------- the archive


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_hash(path: Path, expected: str, fix: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise SourceError(
            f"wrong sha256 of the llama-cpp-python sdist\n"
            f"  file:     {path}\n"
            f"  found:    {found}\n"
            f"  expected: {expected}\n"
            f"  fix:      {fix}"
        )


def download(version: str, sha256: str, cache_dir: Path) -> Path:
    """Downloads the sdist with pip (its index, proxy and certificates) into the cache."""
    requirement = f"llama-cpp-python=={version}"
    say(f"downloading {requirement} (about 75 MB) with pip")
    with tempfile.TemporaryDirectory() as tmp:
        command = [sys.executable, "-m", "pip", "download", "--no-deps"]
        command += ["--no-binary", "llama-cpp-python", "--dest", tmp, requirement]
        # pip runs the sdist's build backend to read its metadata: take the one that is here
        if importlib.util.find_spec("scikit_build_core"):
            command.append("--no-build-isolation")
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        files = list(Path(tmp).glob("*.tar.gz"))
        if done.returncode != 0 or len(files) != 1:
            tail = "\n".join("    " + x for x in done.stdout.strip().splitlines()[-12:])
            raise SourceError(
                f"pip could not download {requirement}\n"
                f"  command: {' '.join(command)}\n"
                f"  output:\n{tail}\n"
                f"  fix:     check pip's index, or download the sdist elsewhere and build with\n"
                f"           LLAMA_CPP_SDIST=/path/to/llama_cpp_python-{version}.tar.gz in the environment"
            )
        check_hash(
            files[0],
            sha256,
            "the package index serves another file under this version: use another index",
        )
        cached = cache_dir / f"llama_cpp_python-{version}.tar.gz"
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(f".{os.getpid()}.part")
        shutil.copyfile(files[0], partial)
        os.replace(partial, cached)
    return cached


def find_archive(version: str, sha256: str, sdist: Optional[Path], cache_dir: Path) -> Path:
    if sdist is not None:
        if not sdist.is_file():
            raise SourceError(
                f"LLAMA_CPP_SDIST is no file: {sdist}\n"
                f"  fix: give the path of llama_cpp_python-{version}.tar.gz, or unset it to download"
            )
        check_hash(sdist, sha256, f"give the sdist of llama-cpp-python {version} as it is on PyPI")
        say(f"using {sdist}")
        return sdist
    cached = cache_dir / f"llama_cpp_python-{version}.tar.gz"
    if cached.is_file():
        check_hash(cached, sha256, "delete this file and build again to download it anew")
        say(f"using {cached} (cached)")
        return cached
    return download(version, sha256, cache_dir)


# -------------------------------------------------------------- the unpacking


SELECTION = 2  # grows with what `needed` takes, so that a tree of an earlier build is unpacked anew


def needed(path: PurePosixPath) -> bool:
    """Whether a file of the sdist takes part in a build (a third of its bytes do)."""
    parts = path.parts
    if parts[:2] != ("vendor", "llama.cpp"):
        return parts[0] == "llama_cpp" or len(parts) == 1
    inner = parts[2:]
    if inner[0].startswith(".") or inner[0] in {"benches", "docs", "examples", "media", "models", "tests"}:
        return False
    if inner[0] != "tools" or len(inner) == 2:
        return True
    return inner[1] in {"mtmd", "server", "ui"} and inner[2] not in {"bench", "tests"}


def unpack(archive: Path, dest: Path) -> None:
    say(f"unpacking to {dest}")
    partial = dest.with_name(dest.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if not member.isfile() or not path.parts or ".." in path.parts or not needed(path):
                continue
            target = partial / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as src, open(target, "wb") as out:  # type: ignore[union-attr]
                shutil.copyfileobj(src, out)
            os.utime(target, (member.mtime, member.mtime))
    shutil.rmtree(dest, ignore_errors=True)
    partial.rename(dest)


def sdist_root(directory: Path, version: str) -> Path:
    """The top of the sdist that `directory` (or the vendor/llama.cpp it names) belongs to."""
    for root in (directory, directory.parent.parent):
        init = root / "llama_cpp" / "__init__.py"
        if init.is_file() and (root / "vendor" / "llama.cpp" / "CMakeLists.txt").is_file():
            found = re.search(r'__version__ = "([^"]+)"', init.read_text(encoding="utf-8"))
            if found and found.group(1) == version:
                return root
            raise SourceError(
                f"LLAMA_CPP_SOURCE_DIR has the wrong version\n"
                f"  directory: {root}\n"
                f"  found:     llama-cpp-python {found.group(1) if found else 'of no known version'}\n"
                f"  expected:  llama-cpp-python {version}\n"
                f"  fix:       unpack the sdist of llama-cpp-python {version} and give that directory"
            )
    raise SourceError(
        f"LLAMA_CPP_SOURCE_DIR is no llama-cpp-python source: {directory}\n"
        f"  expected: llama_cpp/__init__.py and vendor/llama.cpp/CMakeLists.txt in it\n"
        f"  fix:      unpack the sdist of llama-cpp-python {version} and give that directory"
    )


def copy_tree(root: Path, dest: Path) -> None:
    """Copies what a build needs, keeping file times so that ninja sees no change."""
    say(f"copying {root} (its files are not checked against a hash)")
    shutil.rmtree(dest, ignore_errors=True)
    for path in tree_files(root):
        target = dest / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target)


def tree_files(root: Path) -> List[PurePosixPath]:
    files = []
    for top in ("llama_cpp", "vendor/llama.cpp", PRISTINE):
        files += [PurePosixPath(p.relative_to(root).as_posix()) for p in (root / top).rglob("*") if p.is_file()]
    files += [PurePosixPath(p.name) for p in root.iterdir() if p.is_file()]
    return sorted(
        p for p in files if "__pycache__" not in p.parts and (p.parts[0] == PRISTINE or needed(p))
    )


# ---------------------------------------------------------------- the patches


@dataclass
class Hunk:
    header: str
    start: int  # first line in the old file, from 0
    old: List[str] = field(default_factory=list)
    new: List[str] = field(default_factory=list)


@dataclass
class FilePatch:
    path: str  # relative to the sdist's top
    creates: bool = False
    deletes: bool = False
    hunks: List[Hunk] = field(default_factory=list)


def parse_patch(text: str, name: str, prefix: str) -> List[FilePatch]:
    """Reads a unified diff as `git diff` or `git format-patch` writes it."""
    files: List[FilePatch] = []
    lines = text.split("\n")
    i, in_header = 0, False
    while i < len(lines):
        line = lines[i]
        in_header = line.startswith("diff --git ") or (in_header and not line.startswith("--- "))
        if in_header and line.startswith(("rename from", "copy from", "GIT binary patch", "old mode")):
            raise SourceError(f"{name}: '{line}' is not supported; write it as plain text hunks")
        if line.startswith("--- ") and i + 1 < len(lines) and lines[i + 1].startswith("+++ "):
            old, new = (x[4:].split("\t")[0].strip() for x in lines[i : i + 2])
            path = new if new != "/dev/null" else old
            if not path.startswith(("a/", "b/")):
                raise SourceError(f"{name}: '{path}' does not start with a/ or b/; write it with git diff")
            files.append(FilePatch(prefix + path[2:], old == "/dev/null", new == "/dev/null"))
            i += 2
            continue
        header = re.match(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", line)
        if not header or not files:
            i += 1
            continue
        old_left, new_left = (int(n) if n is not None else 1 for n in header.group(2, 4))
        hunk = Hunk(line, int(header.group(1)) - (1 if old_left else 0))
        i, last_kind = i + 1, ""
        while old_left or new_left or (i < len(lines) and lines[i].startswith("\\")):
            if i >= len(lines):
                raise SourceError(f"{name}: the file ends inside the hunk {hunk.header}")
            kind, body = lines[i][:1] or " ", lines[i][1:] + "\n"
            i += 1
            if kind == "\\":  # "\ No newline at end of file" speaks of the line before
                for side, kinds in ((hunk.old, " -"), (hunk.new, " +")):
                    if last_kind and last_kind in kinds:
                        side[-1] = side[-1][:-1]
                continue
            last_kind = kind
            if kind in " -":
                hunk.old.append(body)
                old_left -= 1
            if kind in " +":
                hunk.new.append(body)
                new_left -= 1
            if kind not in " +-" or old_left < 0 or new_left < 0:
                raise SourceError(f"{name}: line {i} does not belong to the hunk {hunk.header}")
        files[-1].hunks.append(hunk)
    if not any(f.hunks for f in files):
        raise SourceError(f"{name}: holds no hunks; is it a patch?")
    return files


def find_lines(lines: List[str], wanted: List[str], near: int) -> Optional[int]:
    """Where `wanted` stands in `lines`, exactly and nearest to `near`."""
    last = len(lines) - len(wanted)
    for at in sorted(range(max(last, -1) + 1), key=lambda at: abs(at - near)):
        if lines[at : at + len(wanted)] == wanted:
            return at
    return None


def apply_to_text(text: str, patch: FilePatch, name: str) -> str:
    lines = re.findall(r"[^\n]*\n|[^\n]+$", text)  # not splitlines: form feeds are no line ends here
    shift = 0
    for number, hunk in enumerate(patch.hunks, 1):
        near = hunk.start + shift
        at = find_lines(lines, hunk.old, near)
        if at is None:
            already = find_lines(lines, hunk.new, near) is not None
            here = lines[max(near, 0) : near + len(hunk.old)]
            differs = next(
                (k for k, old in enumerate(hunk.old) if k >= len(here) or here[k] != old), 0
            )
            found = here[differs].rstrip() if differs < len(here) else "(end of file)"
            raise SourceError(
                f"a patch does not apply\n"
                f"  patch:    {name}\n"
                f"  file:     {patch.path}\n"
                f"  hunk:     {number} of {len(patch.hunks)}, {hunk.header}\n"
                f"  expected: line {near + differs + 1}: {hunk.old[differs].rstrip()}\n"
                f"  found:    line {near + differs + 1}: {found}\n"
                + (
                    "  fix:      the file has this change already: give an unpatched source"
                    if already
                    else "  fix:      did the pinned sdist change? rebase the patch, see patches/README.md"
                )
            )
        lines[at : at + len(hunk.old)] = hunk.new
        shift = at - hunk.start + len(hunk.new) - len(hunk.old)
    return "".join(lines)


def read_text(path: Path) -> Optional[str]:
    if not path.is_file():
        return None
    return path.read_bytes().decode("utf-8", "surrogateescape")


def write_text(path: Path, text: Optional[str]) -> None:
    if text is None:
        path.unlink(missing_ok=True)
    elif read_text(path) != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))


def list_patches(directory: Path) -> List[Tuple[Path, str]]:
    """The series in order, each with the folder of the sdist that its paths start from."""
    series = [(p, "vendor/llama.cpp/") for p in sorted(directory.glob("*.patch"))]
    return series + [(p, "") for p in sorted((directory / "python").glob("*.patch"))]


def patched_texts(series: List[Tuple[Path, str]], pristine) -> Dict[str, Optional[str]]:
    """Text of every file that the series touches, after all of it; None for a deleted one."""
    texts: Dict[str, Optional[str]] = {}
    for patch_path, prefix in series:
        name = f"patches/{'python/' if not prefix else ''}{patch_path.name}"
        for patch in parse_patch(read_text(patch_path) or "", name, prefix):
            text = texts[patch.path] if patch.path in texts else pristine(patch.path)
            if (text is None) != patch.creates:
                raise SourceError(
                    f"a patch does not apply\n"
                    f"  patch: {name}\n"
                    f"  file:  {patch.path} {'exists already' if patch.creates else 'does not exist'}\n"
                    f"  fix:   did the pinned sdist change? rebase the patch, see patches/README.md"
                )
            text = apply_to_text(text or "", patch, name)
            texts[patch.path] = None if patch.deletes else text
    return texts


def apply_series(tree: Path, patches_dir: Path) -> None:
    """Brings `tree` to the state "pristine plus patches_dir", whatever patches it has now."""
    stamp = json.loads((tree / STAMP).read_text())
    series = list_patches(patches_dir)
    wanted = [[p.relative_to(patches_dir).as_posix(), sha256_of(p)] for p, _ in series]
    if stamp["patches"] == wanted:
        say(f"{len(wanted)} patches are in")
        return
    kept = set(stamp["files"])

    def pristine(path: str) -> Optional[str]:
        return read_text(tree / PRISTINE / path if path in kept else tree / path)

    texts = patched_texts(series, pristine)  # raises before anything is written
    undo = {path: pristine(path) for path in kept - set(texts)}
    for path in set(texts) - kept:
        write_text(tree / PRISTINE / path, pristine(path))
    stamp["files"], stamp["patches"] = sorted(kept | set(texts)), []
    write_text(tree / STAMP, json.dumps(stamp, indent=1))
    for path, text in {**undo, **texts}.items():
        write_text(tree / path, text)
    stamp["patches"] = wanted
    write_text(tree / STAMP, json.dumps(stamp, indent=1))
    say(f"applied {len(wanted)} patches to {len(texts)} files")


# ----------------------------------------------------------------------- main


def prepare(
    dest: Path,
    patches_dir: Path,
    version: str,
    sha256: str,
    source_dir: Optional[Path] = None,
    sdist: Optional[Path] = None,
    cache_dir: Optional[Path] = None,
) -> None:
    stamp = json.loads((dest / STAMP).read_text()) if (dest / STAMP).is_file() else {}
    if source_dir is not None:
        root = sdist_root(source_dir.resolve(), version)
        listing = [(str(p), (root / p).stat().st_size, (root / p).stat().st_mtime_ns) for p in tree_files(root)]
        source = f"{root} {hashlib.sha256(repr(listing).encode()).hexdigest()}"
        if stamp.get("source") != source:
            copy_tree(root, dest)
            # a tree that an earlier build patched brings its stamp and its pristine texts along
            stamp = json.loads((dest / STAMP).read_text()) if (dest / STAMP).is_file() else {}
            stamp = {"patches": [], "files": [], **stamp, "source": source}
            write_text(dest / STAMP, json.dumps(stamp, indent=1))
    else:
        source = f"{sha256} {SELECTION}"
        if stamp.get("source") != source:
            unpack(find_archive(version, sha256, sdist, cache_dir or default_cache_dir()), dest)
            write_text(dest / STAMP, json.dumps({"source": source, "patches": [], "files": []}))
    apply_series(dest, patches_dir)


def default_cache_dir() -> Path:
    if os.environ.get("LLAMA_DFLASH_CACHE"):
        return Path(os.environ["LLAMA_DFLASH_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llama-dflash"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dest", type=Path, required=True)
    parser.add_argument("--patches", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--sha256", required=True)
    parser.add_argument("--source-dir", type=Path)
    parser.add_argument("--sdist", type=Path)
    parser.add_argument("--cache-dir", type=Path)
    a = parser.parse_args()
    try:
        prepare(a.dest, a.patches, a.version, a.sha256, a.source_dir, a.sdist, a.cache_dir)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
