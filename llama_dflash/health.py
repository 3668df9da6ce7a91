"""What `llama-dflash doctor` looks at: the build, the machine, what else is installed, and whether drafting works."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Set

from . import __version__, _library
from .cache_folder import cache_folder, config_folder
from .tuning import cpu_name, n_cpus

CPU_FEATURES = {  # of /proc/cpuinfo: how llama.cpp's list calls it
    "avx2": "AVX2",
    "fma": "FMA",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx_vnni": "AVX_VNNI",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
}
VARIABLES = (  # that change how things run
    "GGML_CPU_ROWS",
    "GGML_CPU_BATCH_INVARIANT",
    "LLAMA_CPP_LIB_PATH",
    "LLAMA_DFLASH_CACHE",
    "LLAMA_DFLASH_CONFIG",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
)


@dataclass(frozen=True)
class Finding:
    """state: "ok", "note" or "fault". remedy: What to do; empty if nothing is to be done."""

    what: str
    state: str
    found: str
    remedy: str = ""


def examine(online: bool = False) -> List[Finding]:
    """Everything. online: the Hub is asked whether it answers."""
    findings: List[Finding] = []
    for look in (_package, _libraries, _processor, _devices, _threads, _memory, _others, _folders, _hub, _variables, _models, _drafting):
        try:
            findings += look()
        except Exception as error:  # a doctor that stops at the first surprise is of no use
            findings.append(Finding(look.__name__.strip("_"), "fault", f"{type(error).__name__}: {error}", "report this"))
    return findings + (list(_hub_answers()) if online else [])


def _package() -> Iterator[Finding]:
    yield Finding("llama-dflash", "ok", f"{__version__} in {Path(__file__).resolve().parent}")
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})")


def _libraries() -> Iterator[Finding]:
    import llama_cpp

    yield Finding("llama_cpp", "ok", f"{llama_cpp.__version__} in {Path(llama_cpp.__file__).parent}")
    yield Finding("libraries", "ok", str(_library.lib_dir))
    _library.open_library("llama_dflash")


def _processor() -> Iterator[Finding]:
    import llama_cpp

    info = llama_cpp.llama_print_system_info().decode(errors="replace")
    used = set(re.findall(r"(\w+) = 1", info))
    flags = _cpu_flags()
    unused = sorted(name for flag, name in CPU_FEATURES.items() if flag in flags and name not in used)
    shown = " ".join(sorted(used & set(CPU_FEATURES.values()))) or "none that matter"
    remedy = "" if not unused else (
        "the build leaves them unused, which is slower: build on this machine (pip install . in the checkout), or set CMAKE_ARGS"
    )  # fmt: skip
    yield Finding("processor", "note" if unused else "ok", f"{cpu_name()}; the build uses {shown}" + (f", and not {' '.join(unused)}" if unused else ""), remedy)


def _cpu_flags() -> Set[str]:
    try:
        found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        return set()
    return set(found[1].split()) if found else set()


def _devices() -> Iterator[Finding]:
    """What ggml's backends found."""
    ggml = _library.open_library("ggml")
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base = _library.open_library("ggml-base")
    for name in ("name", "description"):
        function = getattr(base, f"ggml_backend_dev_{name}")
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    devices = [ggml.ggml_backend_dev_get(i) for i in range(ggml.ggml_backend_dev_count())]
    shown = [f"{base.ggml_backend_dev_name(d).decode()} ({base.ggml_backend_dev_description(d).decode()})" for d in devices]
    has_gpu = any(not name.startswith("CPU") for name in shown)
    nvidia = shutil.which("nvidia-smi") is not None
    remedy = 'CMAKE_ARGS="-DGGML_CUDA=on" pip install . builds for the NVIDIA GPU that this machine seems to have' if nvidia and not has_gpu else ""
    yield Finding("devices", "note" if remedy else "ok" if shown else "fault", ", ".join(shown) or "none", remedy)


def _threads() -> Iterator[Finding]:
    quota = _cpu_quota()
    if quota is not None and quota < n_cpus():
        yield Finding("threads", "note", f"{n_cpus()} CPUs, but a quota of {quota:g}", f"more threads than that wait for each other: n_threads={max(1, int(quota))}")
    else:
        yield Finding("threads", "ok", f"{n_cpus()} of {os.cpu_count()} CPUs may be used")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > n_cpus():
        yield Finding("load", "note", f"{load:.1f} processes want to run", "drafting gains little beside busy processes; measure when they are done")


def _cpu_quota() -> "float | None":
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def _memory() -> Iterator[Finding]:
    try:
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
        yield Finding("memory", "ok", f"{int(found['MemAvailable']) / 2**20:.1f} of {int(found['MemTotal']) / 2**20:.1f} GiB are free")
    except (OSError, KeyError):
        return


def _others() -> Iterator[Finding]:
    """Another llama_cpp that could be imported in place of ours."""
    ours = Path(sys.modules["llama_cpp"].__file__ or "").resolve().parent  # type: ignore[arg-type]
    for folder in sys.path:
        other = Path(folder or ".") / "llama_cpp" / "__init__.py"
        if other.is_file() and other.resolve().parent != ours:
            version = _version_in(other)
            yield Finding(
                "another llama_cpp", "note", f"{version} in {other.parent}",
                "import llama_dflash before llama_cpp: then this one is not used. A process that imports llama_cpp first has no drafts",
            )  # fmt: skip
    for name in ("llama-cpp-python", "llama_cpp_python"):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if found != _library.LLAMA_CPP_PYTHON_VERSION:
            yield Finding("llama-cpp-python", "note", f"{found} is installed; llama-dflash brings {_library.LLAMA_CPP_PYTHON_VERSION} of its own", "")
        return


def _version_in(init: Path) -> str:
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", init.read_text(errors="replace"))
    return found[1] if found else "of unknown version"


def _folders() -> Iterator[Finding]:
    for what, folder in (("cache", cache_folder()), ("settings", config_folder())):
        there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        if not os.access(there, os.W_OK):
            yield Finding(what, "fault", f"{folder} can't be written", f"LLAMA_DFLASH_{'CACHE' if what == 'cache' else 'CONFIG'}= names another folder")
        else:
            yield Finding(what, "ok", f"{folder}, {shutil.disk_usage(there).free / 2**30:.1f} GiB free")


def _hub() -> Iterator[Finding]:
    from .hub.repository import PIP_LINE, huggingface_hub_with_all

    if importlib.util.find_spec("huggingface_hub") is None:
        yield Finding("huggingface_hub", "note", "not installed: models and drafters can't be named by their ids on the Hub", PIP_LINE)
        return
    huggingface_hub = huggingface_hub_with_all()
    from huggingface_hub import constants

    offline = bool(constants.HF_HUB_OFFLINE)
    token = "with a token" if huggingface_hub.get_token() else "without a token (private models need one: hf auth login)"
    found = f"{huggingface_hub.__version__}, {token}, cache {constants.HF_HUB_CACHE}"
    yield Finding("huggingface_hub", "note" if offline else "ok", found, "HF_HUB_OFFLINE is set: nothing is downloaded" if offline else "")


def _hub_answers() -> Iterator[Finding]:
    try:
        from .hub.repository import huggingface_hub_with_all

        huggingface_hub = huggingface_hub_with_all()
        huggingface_hub.HfApi().model_info("z-lab/Qwen3.5-27B-DFlash", timeout=10)
        yield Finding("Hub", "ok", f"{huggingface_hub.constants.ENDPOINT} answers")
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        yield Finding("Hub", "fault", f"{type(error).__name__}: {first}", "check the network, a proxy (HTTPS_PROXY) or HF_ENDPOINT; what is in the cache works without")


def _variables() -> Iterator[Finding]:
    found = [f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)]
    if found:
        yield Finding("environment", "note", " ".join(found), "")


def _models() -> Iterator[Finding]:
    from . import short_names, tuning

    entries = list(short_names.pulled().values())
    if entries:
        tuned = [entry.name for entry in entries if tuning.find(entry.file)]
        yield Finding("short names", "ok", ", ".join(entry.name for entry in entries) + (f" (tuned: {', '.join(tuned)})" if tuned else ""))
    for entry in entries:
        gone = [path for path in (entry.file, *entry.draft_model) if os.sep in path and not os.path.exists(path)]
        if gone:
            yield Finding(entry.name, "note", f"{', '.join(gone)} is gone", f"llama-dflash pull {entry.model} --name {entry.name}")


def _drafting() -> Iterator[Finding]:
    """A short text of the tiny pair, with its drafter and without."""
    from . import demo
    from .llama import Llama

    pair = demo.PAIRS["tiny-qwen35"]
    target, drafter = str(demo.find_target(pair)), str(demo.find_shipped(pair.drafter))
    texts = []
    for draft_model in (None, [drafter, "ngram"]):
        llm = Llama(target, draft_model=draft_model, n_ctx=256, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
        texts.append(llm.create_completion("def add(a, b):\n", max_tokens=16, temperature=0.0)["choices"][0]["text"])
        stats = llm.speculative_stats
        llm.close()
    same = texts[0] == texts[1]
    found = f"{stats.accepted} of {stats.nodes} draft nodes of a test were accepted; its text is {'' if same else 'not '}plain decoding's"
    yield Finding("drafting", "ok" if same and stats.rounds else "fault", found, "" if same else "report this, with the line about the processor")
