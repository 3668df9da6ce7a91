"""What CMake decides and says before anything is compiled."""

import os
import platform
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not on PATH")


def cmake(*args, **environment):
    done = subprocess.run(
        ["cmake", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    return done.returncode, " ".join(done.stdout.split())  # CMake wraps its messages


def test_a_missing_compiler_names_the_step_and_the_fix(checkout, tmp_path):
    code, output = cmake("-S", checkout, "-B", tmp_path, CC="/no/such/cc", CXX="/no/such/c++")
    assert code != 0
    assert "Step 'find a compiler'" in output
    for fix in ("apt install build-essential", "dnf install gcc", "xcode-select --install"):
        assert fix in output


def test_a_wrong_hash_stops_the_configuration_and_says_why(checkout, tmp_path):
    if not (shutil.which("cc") or os.environ.get("CC")):
        pytest.skip("no compiler")
    wrong = tmp_path / "wrong.tar.gz"
    wrong.write_bytes(b"not the sdist")
    code, output = cmake("-S", checkout, "-B", tmp_path / "b", f"-DLLAMA_CPP_SDIST={wrong}")
    assert code != 0
    for part in ("get and patch the llama.cpp source", "wrong sha256", str(wrong), "expected:", "fix:"):
        assert part in output


AMX_PROJECT = """
cmake_minimum_required(VERSION 3.21)
project(amx C)
list(APPEND CMAKE_MODULE_PATH "{checkout}/cmake")
include(NativeCpu)
if(PROBE)
    set(LLAMA_DFLASH_AMX_PROBE "${{PROBE}}")
endif()
llama_dflash_amx_flags(flags "${{ARCH}}")
message(STATUS "flags=[${{flags}}]")
add_library(x OBJECT x.c)
target_compile_options(x PRIVATE ${{ARCH}} ${{flags}})
"""

AMX_OFF = "-mno-amx-tile;-mno-amx-int8;-mno-amx-bf16"


def amx_flags(checkout, tmp_path, arch, probe_exits_with=None):
    """The decision for a compiler that is told `arch`, on this machine or one where the probe ends so."""
    (tmp_path / "CMakeLists.txt").write_text(AMX_PROJECT.format(checkout=checkout.as_posix()))
    (tmp_path / "x.c").write_text("#ifdef __AMX_INT8__\n#error AMX is on\n#endif\n")
    options = [f"-DARCH={arch}"]
    if probe_exits_with is not None:
        (tmp_path / "probe.c").write_text(f"#include <signal.h>\nint main(void) {{ {probe_exits_with}; }}\n")
        options.append(f"-DPROBE={tmp_path / 'probe.c'}")
    code, output = cmake("-S", tmp_path, "-B", tmp_path / "b", *options)
    assert code == 0, output
    build = cmake("--build", tmp_path / "b")
    return output.split("flags=[")[1].split("]")[0], build


def cpu_runs_amx():
    try:
        return " amx_tile" in open("/proc/cpuinfo").read()
    except OSError:
        return False


x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AMX is an x86 feature")


@x86
def test_amx_is_turned_off_where_the_probe_dies(checkout, tmp_path):
    flags, (code, output) = amx_flags(checkout, tmp_path, "-march=sapphirerapids", "raise(SIGILL); return 0")
    assert flags == AMX_OFF
    assert code == 0, output  # the flags really undefine __AMX_INT8__ for the sources


@x86
def test_amx_is_turned_off_where_the_kernel_refuses_it(checkout, tmp_path):
    assert amx_flags(checkout, tmp_path, "-march=sapphirerapids", "return 1")[0] == AMX_OFF


@x86
def test_amx_stays_on_where_the_probe_works(checkout, tmp_path):
    flags, (code, output) = amx_flags(checkout, tmp_path, "-march=sapphirerapids", "return 0")
    assert flags == ""
    assert code != 0 and "AMX is on" in output


@x86
def test_nothing_is_run_for_a_cpu_without_amx(checkout, tmp_path):
    assert amx_flags(checkout, tmp_path, "-march=x86-64-v3", "raise(SIGILL); return 0")[0] == ""


@x86
@pytest.mark.skipif(cpu_runs_amx(), reason="this CPU has AMX: whether it runs is the kernel's word")
def test_the_real_probe_notices_that_this_machine_has_no_amx(checkout, tmp_path):
    assert amx_flags(checkout, tmp_path, "-march=sapphirerapids")[0] == AMX_OFF
