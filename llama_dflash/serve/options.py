"""The words of `llama-dflash serve`: which are ours, which are llama.cpp's and go through as they are.

llama.cpp's server has some 200 options, among them `-md`, `-mg` and `-np`, which argparse would take for `-m`. So a word is
ours only if it is written out in `OURS` or `_WATCHED`; everything else is passed on in its place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

# Ours alone: name, whether a value follows.
OURS = {"--draft-model": True, "--budget": True, "--verbose": False}

# llama.cpp's that we look at and pass on: name -> (what it is for us, whether a value follows).
_WATCHED = {
    **dict.fromkeys(("-m", "--model"), ("model", True)),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo", "-mu", "--model-url", "-dr", "--docker-repo"), ("model_elsewhere", True)),
    **dict.fromkeys(("--models-dir", "--models-preset"), ("models", True)),
    **dict.fromkeys(("--host",), ("host", True)),
    **dict.fromkeys(("--port",), ("port", True)),
    **dict.fromkeys(("-np", "--parallel"), ("parallel", True)),
    **dict.fromkeys(("-fa", "--flash-attn"), ("flash_attn", True)),
    **dict.fromkeys(("-kvu", "--kv-unified", "-no-kvu", "--no-kv-unified"), ("kv_unified", False)),
    **dict.fromkeys(("--metrics",), ("metrics", False)),
    **dict.fromkeys(("--api-prefix",), ("api_prefix", True)),
    **dict.fromkeys(("--ssl-cert-file",), ("ssl", True)),
    **dict.fromkeys(("--spec-type",), ("spec_type", True)),
    **dict.fromkeys(("-md", "--model-draft", "--spec-draft-model"), ("chain_drafter", True)),
    **dict.fromkeys(("-v", "--log-verbose"), ("wants_log", False)),
    **dict.fromkeys(("-lv", "--verbosity", "--log-verbosity"), ("wants_log", True)),
    **dict.fromkeys(("--log-jsonl", "--log-disable", "--no-log-prefix"), ("raw_log", False)),
    **dict.fromkeys(("--version", "--list-devices", "-cl", "--cache-list", "--completion-bash"), ("says", False)),
}

# The same, from the environment.
_VARIABLES = {
    "model": ("LLAMA_ARG_MODEL",),
    "model_elsewhere": ("LLAMA_ARG_HF_REPO", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_DOCKER_REPO"),
    "models": ("LLAMA_ARG_MODELS_DIR", "LLAMA_ARG_MODELS_PRESET"),
    "host": ("LLAMA_ARG_HOST",),
    "port": ("LLAMA_ARG_PORT",),
    "parallel": ("LLAMA_ARG_N_PARALLEL",),
    "flash_attn": ("LLAMA_ARG_FLASH_ATTN",),
    "kv_unified": ("LLAMA_ARG_KV_UNIFIED", "LLAMA_ARG_NO_KV_UNIFIED"),
    "metrics": ("LLAMA_ARG_ENDPOINT_METRICS",),
    "api_prefix": ("LLAMA_ARG_API_PREFIX",),
    "ssl": ("LLAMA_ARG_SSL_CERT_FILE",),
    "spec_type": ("LLAMA_ARG_SPEC_TYPE",),
    "wants_log": ("LLAMA_ARG_LOG_VERBOSITY",),
    "raw_log": ("LLAMA_ARG_LOG_JSONL",),
}

# What is passed where neither the command line nor the environment says it.
_DEFAULTS = {
    "host": ("--host", "127.0.0.1"),
    "port": ("--port", "8080"),
    "parallel": ("--parallel", "4"),
    "flash_attn": ("--flash-attn", "on"),
    "kv_unified": ("--kv-unified",),
    "metrics": ("--metrics",),
}


class WrongUsage(ValueError):
    """Words that make no command line. The message says what was found and what was expected."""


@dataclass
class Options:
    """A command line, sorted.

    Attributes:
        draft_model: What stands behind each `--draft-model`; None without one.
        budget: "auto", a number of nodes, or None if it was not given.
        verbose: Whether llama.cpp's log is to be seen.
        passed: llama.cpp's words, in their order, but for the model.
        found: What llama.cpp's words and the environment say of the things in `_WATCHED`; "" for a word without a value.
    """

    draft_model: Optional[List[str]] = None
    budget: Optional[str] = None
    verbose: bool = False
    passed: List[str] = field(default_factory=list)
    found: Dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Optional[str]:
        """What `-m` names; None if llama.cpp is to find its models itself."""
        return self.found.get("model")

    @property
    def shows_log(self) -> bool:
        return self.verbose or "wants_log" in self.found or "raw_log" in self.found

    @property
    def defaults(self) -> List[str]:
        """The words for what nobody has said otherwise."""
        return [word for what, words in _DEFAULTS.items() if what not in self.found for word in words]

    @property
    def host(self) -> str:
        return self.found.get("host", _DEFAULTS["host"][1])

    @property
    def port(self) -> str:
        return self.found.get("port", _DEFAULTS["port"][1])


def read(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> Options:
    """Sorts a command line.

    Raises:
        WrongUsage: If an option lacks its value, has a wrong one, or does not go with another.
    """
    options = Options()
    options.found = {
        what: environment[name] for what, names in _VARIABLES.items() for name in names if environment.get(name, "") != ""
    }
    rest = list(words)
    while rest:
        name, value = _next(rest)
        if name in OURS:
            _set(options, name, value)
            continue
        what = _WATCHED[name][0] if name in _WATCHED else ""
        if what:
            options.found[what] = value or ""
        if what != "model":
            options.passed += [name] if value is None else [name, value]
    _check(options)
    return options


def _next(rest: List[str]) -> Tuple[str, Optional[str]]:
    """Takes the next word off, with its value if it is one that we know to have one."""
    word = rest.pop(0)
    name, equals, value = word.partition("=")
    if name in OURS and equals:
        if not OURS[name]:
            raise WrongUsage(f"{name} takes no value, found {word}")
        return name, value
    has_value = OURS.get(word, _WATCHED.get(word, ("", False))[1])
    if not has_value:
        return word, None
    if not rest:
        raise WrongUsage(f"{word} needs a value")
    return word, rest.pop(0)


def _set(options: Options, name: str, value: Optional[str]) -> None:
    if name == "--verbose":
        options.verbose = True
    elif name == "--draft-model":
        if not value or not all(part.strip() for part in value.split(",")):
            raise WrongUsage(f"--draft-model is {value!r}, expected a file, mtp, ngram, several of these with commas between them, or none")
        options.draft_model = [*(options.draft_model or []), value]
    else:
        if value != "auto" and not (value is not None and value.isdecimal() and int(value) > 0):
            raise WrongUsage(f"--budget is {value!r}, expected auto or a number of nodes, at least 1")
        options.budget = value


def _check(options: Options) -> None:
    if options.draft_model is not None:
        for what, name in (("spec_type", "--spec-type"), ("chain_drafter", "--spec-draft-model (-md)")):
            if what in options.found:
                raise WrongUsage(
                    f"both --draft-model and llama.cpp's {name}: the first drafts trees, the other is llama.cpp's own speculation; give one"
                )
    if not any(what in options.found for what in ("model", "model_elsewhere", "models", "says")):
        raise WrongUsage(
            "no model: name one with -m (a GGUF file, a model on the Hub, or a short name), or a folder of models with --models-dir"
        )
