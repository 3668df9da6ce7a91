"""What can be said before the server is started: files that are missing or do not fit, a port that is taken.

llama.cpp would say most of it only after it has loaded the target, and on several lines of its log.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import sys
from pathlib import Path
from typing import Any, Callable, List, Optional

from .. import _engine, _library, drafts
from ..drafts.file_draft import gguf_at
from ..gguf_file import GgufFile


def drafters(target: Optional[str], names: List[str]) -> List[drafts.Draft]:
    """The drafters of these names, their files ready for the target: a published checkpoint is converted first.

    Args:
        target: Its GGUF file; None: it is not known yet.
        names: As `draft_model=` takes them.

    Raises:
        ValueError: If a file is missing, is no drafter, or does not fit the target. The message is a sentence.
    """
    if target is not None:
        _check_target(target)
    if not names:
        return []
    found = drafts.parse(names)
    assert isinstance(found, list)
    ready = [one for draft in found for one in (draft.all_ready_for(target) if target is not None else [_without_target(draft)])]
    if target is not None:
        for draft in ready:
            for problem in in_another_process(_misfits, target, draft.file or ""):
                raise ValueError(f"{draft.file or draft.word} does not fit {target}: {problem}")
    return ready


def _check_target(path: str) -> None:
    GgufFile(path)  # raises ValueError
    in_another_process(_engine.check_model, path)


def _misfits(target: str, drafter: str) -> List[str]:
    return _engine.misfits(target, drafter)


def _without_target(draft: drafts.Draft) -> drafts.Draft:
    """A drafter for a target that llama.cpp will fetch: nothing can be compared or converted yet."""
    if isinstance(draft, drafts.AutoDraft):
        raise ValueError("--draft-model auto looks at the target's file: name the target with -m")
    if draft.file is not None and gguf_at(draft.file) is None:
        raise ValueError(f"{draft.file} is a checkpoint, which is converted for a target: name the target's file with -m")
    return draft.ready_for("")


def free_port(host: str, port: str) -> None:
    """Raises ValueError if the server could not listen there. What only the server can find out is left to it."""
    if not port.isdecimal() or not 0 <= int(port) < 65536:
        raise ValueError(f"--port is {port}, expected a number up to 65535 (0: any free port)")
    for name in (part.strip() for part in host.split(",")):
        if int(port) and name and not name.endswith(".sock"):
            _try_to_bind(name, int(port))


def _try_to_bind(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise ValueError(f"--host is {host}, which has no address here: {error.strerror}") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                problem = f"port {port} of {host} is in use; choose another with --port, or 0 for any that is free"
            else:
                problem = f"can't listen on {host}, port {port}: {error.strerror}"
            raise ValueError(problem) from None


def in_another_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a fork, and returns or raises what it does. llama.cpp may get memory on a GPU to answer, which this
    process would keep as long as the server runs.

    Raises:
        ValueError: If the fork dies.
    """
    if not hasattr(os, "fork"):
        return function(*arguments)
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(writing, function, arguments)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        raise ValueError(f"checking {', '.join(map(str, arguments))} ended with status {status}: is the file damaged?")
    result, error = pickle.loads(answer)
    if error is not None:
        raise ValueError(error)
    return result


def _answer(writing: int, function: Callable[..., Any], arguments: Any) -> None:
    """In the fork: writes the result, or what an exception says, and ends."""
    try:
        answer = (function(*arguments), None)
    except Exception as problem:
        answer = (None, str(problem) or type(problem).__name__)
    with os.fdopen(writing, "wb") as file:
        file.write(pickle.dumps(answer))
    os._exit(0)


def binary() -> Path:
    """The server that the package ships.

    Raises:
        ValueError: If it was not built.
    """
    named = os.environ.get("LLAMA_DFLASH_SERVER_BINARY")
    if named:
        if not os.access(named, os.X_OK):
            raise ValueError(f"LLAMA_DFLASH_SERVER_BINARY={named} is no file that can be run")
        return Path(named)
    folder = _library.lib_dir.parent / "bin"
    for name in ("llama-dflash-server", "llama-dflash-server.exe"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"this build has no server: {folder / 'llama-dflash-server'} is missing, as it was built with -DLLAMA_DFLASH_SERVER=OFF or "
        'without images and audio (-DLLAMA_DFLASH_MTMD=OFF). Install again without these: CMAKE_ARGS="" pip install --force-reinstall '
        "llama-dflash. `python -m llama_dflash.server` is llama-cpp-python's server and is there in every build"
    )
