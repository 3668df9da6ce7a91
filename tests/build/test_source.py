"""Getting, checking, unpacking and patching the pinned source (cmake/llama_cpp_source.py)."""

import hashlib
import io
import shutil
import subprocess
import tarfile

import pytest

MAIN = "".join(f"line {n}\n" for n in range(1, 41))
FILES = {
    "llama_cpp/__init__.py": '__version__ = "9.9"\n',
    "vendor/llama.cpp/CMakeLists.txt": "project(x)\n",
    "vendor/llama.cpp/src/main.cpp": MAIN,
    "vendor/llama.cpp/src/other.cpp": "other\n",
    "vendor/llama.cpp/docs/big.md": "not needed to build\n",
    ".git/config": "not needed either\n",
}
PATCH = """\
Says what it is for.

diff --git a/src/main.cpp b/src/main.cpp
--- a/src/main.cpp
+++ b/src/main.cpp
@@ -4,3 +4,4 @@ void f() {
 line 4
 line 5
+line 5 and a half
 line 6
@@ -30,3 +31,2 @@
 line 30
-line 31
 line 32
diff --git a/src/new.cpp b/src/new.cpp
new file mode 100644
--- /dev/null
+++ b/src/new.cpp
@@ -0,0 +1,2 @@
+new
+no newline at the end
\\ No newline at end of file
"""


class Project:
    """A small sdist, a series of patches, and the tree that a build makes of them."""

    def __init__(self, source, tmp_path):
        self.source, self.tmp, self.tree = source, tmp_path, tmp_path / "build" / "tree"
        self.patches = tmp_path / "patches"
        self.patches.mkdir()
        self.sdist = tmp_path / "x-9.9.tar.gz"
        with tarfile.open(self.sdist, "w:gz") as tar:
            for name, text in FILES.items():
                info = tarfile.TarInfo(f"x-9.9/{name}")
                info.size, info.mtime = len(text), 1_000_000_000
                tar.addfile(info, io.BytesIO(text.encode()))
        self.sha256 = hashlib.sha256(self.sdist.read_bytes()).hexdigest()

    def prepare(self, **options):
        options = options or {"sdist": self.sdist}
        self.source.prepare(self.tree, self.patches, "9.9", self.sha256, **options)

    def fails(self, **options):
        with pytest.raises(self.source.SourceError) as error:
            self.prepare(**options)
        return str(error.value)

    def text(self, path):
        return (self.tree / "vendor" / "llama.cpp" / path).read_text()

    def times(self):
        return {p: p.stat().st_mtime_ns for p in (self.tree / "vendor").rglob("*") if p.is_file()}


@pytest.fixture
def project(source, tmp_path):
    return Project(source, tmp_path)


def test_a_wrong_hash_names_file_found_expected_and_fix(project):
    found = project.sha256
    project.sha256 = "0" * 64
    message = project.fails(sdist=project.sdist)
    for part in (str(project.sdist), found, "0" * 64, "fix:"):
        assert part in message
    assert not project.tree.exists()


def test_a_wrong_hash_in_the_cache_says_to_delete_the_file(project):
    cached = project.tmp / "llama_cpp_python-9.9.tar.gz"
    cached.write_bytes(b"half a downlo")
    assert "delete this file" in project.fails(cache_dir=project.tmp)


def test_a_missing_sdist_says_what_to_give(project):
    assert "LLAMA_CPP_SDIST is no file" in project.fails(sdist=project.tmp / "none.tar.gz")


def test_only_what_a_build_needs_is_unpacked(project):
    project.prepare()
    assert (project.tree / "llama_cpp" / "__init__.py").is_file()
    assert not (project.tree / "vendor" / "llama.cpp" / "docs").exists()
    assert not (project.tree / ".git").exists()


def test_a_patch_changes_adds_and_deletes_lines_and_adds_files(project):
    (project.patches / "0001-x.patch").write_text(PATCH)
    project.prepare()
    assert "line 5\nline 5 and a half\nline 6\n" in project.text("src/main.cpp")
    assert "line 31\n" not in project.text("src/main.cpp")
    assert project.text("src/new.cpp") == "new\nno newline at the end"


def test_a_hunk_that_moved_is_still_found(project):
    (project.patches / "0001-x.patch").write_text(PATCH.replace("@@ -30,3 +31,2 @@", "@@ -20,3 +21,2 @@"))
    project.prepare()
    assert "line 31\n" not in project.text("src/main.cpp")


def test_a_hunk_that_does_not_apply_is_named_and_nothing_is_written(project):
    project.prepare()
    before = project.times()
    (project.patches / "0001-fits.patch").write_text(PATCH)
    (project.patches / "0002-does-not.patch").write_text(
        "--- a/src/main.cpp\n+++ b/src/main.cpp\n"
        "@@ -1,2 +1,3 @@\n line 1\n+one\n line 2\n"
        "@@ -10,2 +11,2 @@ int g()\n line 9\n-line eleven\n+11\n"
    )
    message = project.fails(sdist=project.sdist)
    for part in (
        "patches/0002-does-not.patch",
        "src/main.cpp",
        "2 of 2, @@ -10,2 +11,2 @@ int g()",
        "line eleven",
        "patches/README.md",
    ):
        assert part in message
    assert project.times() == before


def test_a_source_that_is_patched_already_is_recognised(project):
    (project.patches / "0001-x.patch").write_text(
        "--- a/src/other.cpp\n+++ b/src/other.cpp\n@@ -1 +1 @@\n-another\n+other\n"
    )
    assert "has this change already" in project.fails(sdist=project.sdist)


def test_a_changed_series_rewrites_only_files_whose_text_changes(project):
    (project.patches / "0001-x.patch").write_text(PATCH)
    (project.patches / "0002-y.patch").write_text(
        "--- a/src/other.cpp\n+++ b/src/other.cpp\n@@ -1 +1 @@\n-other\n+another\n"
    )
    project.prepare()
    before = project.times()
    project.prepare()
    assert project.times() == before, "the same series again touches nothing"

    (project.patches / "0001-x.patch").write_text(PATCH.replace("and a half", "and three quarters"))
    project.prepare()
    after = project.times()
    assert [p.name for p in before if after[p] != before[p]] == ["main.cpp"]

    (project.patches / "0001-x.patch").unlink()
    (project.patches / "0002-y.patch").unlink()
    project.prepare()
    assert project.text("src/main.cpp") == MAIN
    assert project.text("src/other.cpp") == "other\n"
    assert not (project.tree / "vendor/llama.cpp/src/new.cpp").exists()


@pytest.mark.parametrize("inner", [".", "vendor/llama.cpp"])
def test_an_unpacked_source_is_copied_not_changed(project, inner):
    project.prepare()
    unpacked = project.tmp / "unpacked"
    shutil.copytree(project.tree, unpacked)
    (unpacked / ".llama-dflash.json").unlink()
    (project.patches / "0001-x.patch").write_text(PATCH)
    project.prepare(source_dir=unpacked / inner)
    assert "and a half" in project.text("src/main.cpp")
    assert (unpacked / "vendor/llama.cpp/src/main.cpp").read_text() == MAIN


def test_a_tree_that_an_earlier_build_patched_serves_as_source(project):
    (project.patches / "0001-x.patch").write_text(PATCH)
    project.prepare()
    earlier = project.tmp / "earlier"
    project.tree.rename(earlier)
    (project.patches / "0001-x.patch").write_text(PATCH.replace("and a half", "and three quarters"))
    project.prepare(source_dir=earlier)
    assert "line 5\nline 5 and three quarters\nline 6" in project.text("src/main.cpp")


def test_a_source_of_another_version_is_refused(project):
    project.prepare()
    (project.tree / "llama_cpp" / "__init__.py").write_text('__version__ = "9.8"\n')
    other = project.tmp / "other"
    project.tree.rename(other)
    message = project.fails(source_dir=other)
    assert "9.8" in message and "9.9" in message and "fix:" in message
    assert "no llama-cpp-python source" in project.fails(source_dir=project.tmp)


def test_the_series_applies_to_the_pinned_sdist_as_git_applies_it(sdist_tree, source, checkout, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(sdist_tree, tree)
    series = source.list_patches(checkout / "patches")
    assert series, "no patches?"
    kept = tree / source.PRISTINE
    files = [p.relative_to(sdist_tree) for p in sdist_tree.rglob("*") if p.is_file()]
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for path in files:  # back to pristine, then the same series by git
        if (kept / path).is_file():
            shutil.copy(kept / path, tree / path)
        elif path.as_posix() in added_files(source, series):
            (tree / path).unlink()
    for patch, prefix in series:
        subprocess.run(
            ["git", "apply", "--unsafe-paths", f"--directory={tree / prefix}", str(patch)], check=True, cwd="/"
        )
    for path in files:
        if path.parts[0] != source.PRISTINE and path.name != source.STAMP:
            assert (tree / path).read_bytes() == (sdist_tree / path).read_bytes(), path


def added_files(source, series):
    return {
        patch.path
        for path, prefix in series
        for patch in source.parse_patch(path.read_text(), path.name, prefix)
        if patch.creates
    }
