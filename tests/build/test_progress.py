"""What a person sees while the package builds (cmake/progress.py)."""

import subprocess
import sys

BUILD = """
import sys
print("  -- llama.cpp source: 4 patches are in")
for n in range(1, 101):
    print(f"  [{n}/100] Building CXX object a/file{n}.cpp.o")
print("x.cpp:1: error: no such thing", "Successfully installed a-1 llama-dflash-0.1.0 b-2", sep="\\n")
sys.exit(int(sys.argv[1]))
"""


def progress(checkout, tmp_path, code):
    command = [sys.executable, str(checkout / "cmake" / "progress.py"), str(tmp_path / "build" / "log")]
    done = subprocess.run([*command, sys.executable, "-c", BUILD, str(code)], capture_output=True, text=True)
    assert (tmp_path / "build" / "log").read_text().count("Building CXX") == 100
    return done.returncode, done.stdout


def test_a_build_shows_its_steps_and_how_far_it_is_and_hides_the_rest(checkout, tmp_path):
    code, output = progress(checkout, tmp_path, 0)
    assert code == 0
    for part in ("llama.cpp source: 4 patches are in", "compiling [50/100]", "installed llama-dflash-0.1.0"):
        assert part in output
    assert len(output.splitlines()) < 20 and "error:" not in output


def test_a_failed_build_shows_the_error_and_where_the_log_is(checkout, tmp_path):
    code, output = progress(checkout, tmp_path, 3)
    assert code == 3
    assert "x.cpp:1: error: no such thing" in output and str(tmp_path / "build" / "log") in output
