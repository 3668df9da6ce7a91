"""One repository of the Hub: its files, and how they get here. Everything that talks to the Hub is in this file."""

from __future__ import annotations

import contextlib
import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

from .ids import HubId

ATTEMPTS = 4  # at a download: older versions of huggingface_hub give up when a connection breaks off
PIP_LINE = 'pip install "llama-dflash[hub]"'


class HubError(ValueError):
    """Something is not to be had from the Hub. The message says what to do."""


@dataclass(frozen=True)
class Access:
    """How the Hub is asked, as huggingface_hub's functions have it.

    token: None for the one that HF_TOKEN or `hf auth login` gave; False for none.
    cache_dir: None for HF_HUB_CACHE, or hub/ in HF_HOME.
    """

    token: Union[str, bool, None] = None
    cache_dir: Union[str, "os.PathLike[str]", None] = None

    @property
    def cache(self) -> Path:
        if self.cache_dir is not None:
            return Path(self.cache_dir).expanduser()
        return Path(huggingface_hub_with_all().constants.HF_HUB_CACHE)


class Repository:
    """The files of a repository at one revision.

    Where the Hub can't be reached, or HF_HUB_OFFLINE is set, they are those that are in the cache.

    Attributes:
        commit: The revision's commit.
        files: Every file and its size in bytes.
        is_cached_only: The Hub was not asked.

    Raises:
        HubError: If there is no such repository or revision, or it may not be read, or it is neither in reach nor here.
        ImportError: If huggingface_hub is not installed.
    """

    def __init__(self, id: HubId, access: Access = Access()) -> None:
        self.id = id
        self.access = access
        self.files: Dict[str, int] = {}
        self.commit = ""
        self.is_cached_only = False
        with _problems(id):
            self._look()

    def _look(self) -> None:
        hub = huggingface_hub_with_all(self.id)
        try:
            info = hub.HfApi(token=self.access.token).model_info(self.id.repo, revision=self.id.revision, files_metadata=True)
        except Exception as error:
            if not _is_out_of_reach(error) or not self._look_in_the_cache():
                raise
            self.is_cached_only = True
            return
        self.commit = info.sha
        self.files = {file.rfilename: file.size or 0 for file in info.siblings or []}

    def _look_in_the_cache(self) -> bool:
        folder = self.access.cache / f"models--{self.id.repo.replace('/', '--')}"
        revision = self.id.revision or "main"
        ref = folder / "refs" / revision
        self.commit = ref.read_text().strip() if ref.is_file() else revision
        snapshot = folder / "snapshots" / self.commit
        if not snapshot.is_dir():
            return False
        found = [path for path in snapshot.rglob("*") if path.is_file()]
        self.files = {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in found}
        return True

    def cached(self, name: str) -> Optional[Path]:
        """Where a file is, if it was downloaded before."""
        found = huggingface_hub_with_all().try_to_load_from_cache(self.id.repo, name, cache_dir=self.access.cache_dir, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def has(self, names: Sequence[str]) -> bool:
        """Whether all of these were downloaded before."""
        return all(self.cached(name) is not None for name in names)

    def download(self, names: Sequence[str], local_dir: Union[str, "os.PathLike[str]", None] = None) -> Path:
        """Files of the repository, which come with huggingface_hub's progress bars if they are not here yet.

        Returns:
            The folder that they are in: in the Hub's cache, or `local_dir`.
        """
        with _problems(self.id):
            for attempts_left in reversed(range(ATTEMPTS)):
                try:
                    folder = self._download(names, local_dir)
                    break
                except Exception as error:
                    if attempts_left == 0 or not _is_broken_off(error):
                        raise
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise HubError(f"{self.id}: {', '.join(missing)} is not in the cache ({folder}), and the Hub can't be reached: try again online")
        return folder

    def _download(self, names: Sequence[str], local_dir: Union[str, "os.PathLike[str]", None]) -> Path:
        return Path(
            huggingface_hub_with_all().snapshot_download(
                self.id.repo,
                # a branch's or tag's name, so that the cache knows it when the Hub is out of reach
                revision=self.commit if self.is_cached_only else self.id.revision,
                allow_patterns=[glob.escape(name) for name in names],
                token=self.access.token,
                cache_dir=self.access.cache_dir,
                local_dir=local_dir,
                local_files_only=self.is_cached_only,
            )
        )

    def read(self, name: str, start: int, n_bytes: int) -> bytes:
        """A part of a file, fetched without the rest."""
        hub = huggingface_hub_with_all()
        url = hub.hf_hub_url(self.id.repo, name, revision=self.commit)
        headers = {**hub.utils.build_hf_headers(token=self.access.token), "Range": f"bytes={start}-{start + n_bytes - 1}"}
        with _problems(self.id):
            answer = hub.utils.get_session().get(url, headers=headers, timeout=60)
            hub.utils.hf_raise_for_status(answer)
        return answer.content[:n_bytes] if answer.status_code == 206 else answer.content[start : start + n_bytes]


# ---------------------------------------------------------------- huggingface_hub


def huggingface_hub_with_all(id: Optional[HubId] = None) -> Any:
    """The package, with the modules of it that are used here.

    Raises:
        ImportError: If it is not installed. The message has the line that installs it.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError:
        what = "models from the Hub need" if id is None else f"there is no file or folder {id} here, and to get it from the Hub takes"
        raise ImportError(f"{what} huggingface_hub, which is not installed: {PIP_LINE} (or pip install huggingface_hub)") from None
    return huggingface_hub


def _is_offline() -> bool:
    return bool(huggingface_hub_with_all().constants.HF_HUB_OFFLINE)


def _named(error: BaseException, names: Sequence[str]) -> bool:
    """By name: where these classes live has changed with huggingface_hub's versions, which use requests or httpx."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _is_out_of_reach(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status >= 500
    return _named(error, ("OfflineModeIsEnabled", "ConnectionError", "ConnectError", "Timeout", "TimeoutException", "TransportError"))


def _is_broken_off(error: BaseException) -> bool:
    """In the middle of a download: the next one goes on from there."""
    return _named(error, ("ChunkedEncodingError", "ProtocolError", "RemoteProtocolError")) or "onsistency check" in str(error)


@contextlib.contextmanager
def _problems(id: HubId) -> Iterator[None]:
    """Errors of huggingface_hub as sentences that say what to do."""
    try:
        yield
    except (HubError, ImportError):
        raise
    except Exception as error:
        sentence = _sentence(id, error)
        if sentence is None:
            raise
        raise HubError(sentence) from error


def _sentence(id: HubId, error: Exception) -> Optional[str]:
    where = f"{huggingface_hub_with_all().constants.ENDPOINT}/{id.repo}"
    log_in = "`hf auth login`, HF_TOKEN=… or token="
    status = getattr(getattr(error, "response", None), "status_code", None)
    if _named(error, ["GatedRepoError"]):
        return f"{id} is gated: accept its terms at {where}, then say who you are with {log_in}"
    if _named(error, ["RepositoryNotFoundError"]):
        return (
            f"{id}: the Hub has no such model, or it is private (nor is there such a file or folder here). Check the name at {where};"
            f" for a private one give a token with {log_in}"
        )
    if _named(error, ["RevisionNotFoundError"]):
        return f"{id}: {id.repo} has no revision {id.revision}: its branches and tags are at {where}/tree/main"
    if _named(error, ["HFValidationError"]):
        return f"{id} is no id of the Hub, expected org/name: {error}"
    if status == 401:
        return f"{id}: the Hub does not know the token that was sent: give another with {log_in}"
    if status == 403:
        return f"{id}: the Hub forbids it ({where}): the token may not read this model"
    if _named(error, ["OfflineModeIsEnabled"]) or (_is_offline() and _named(error, ["LocalEntryNotFoundError"])):
        return f"{id} is not in the cache, and HF_HUB_OFFLINE is set: unset it, and `llama-dflash pull {id}` fetches it"
    if _is_out_of_reach(error) or _named(error, ["LocalEntryNotFoundError"]):
        return f"{id}: the Hub ({huggingface_hub_with_all().constants.ENDPOINT}) can't be reached, and the cache does not have it ({_short(error)})"
    if isinstance(status, int):
        return f"{id}: the Hub answered {status} ({_short(error)})"
    if _is_broken_off(error) or _named(error, ["HTTPError", "RequestException"]):
        return f"{id}: the connection broke off ({_short(error)}): try again, what has arrived is kept"
    if isinstance(error, OSError):
        return f"{id} can't be kept: {error.filename or 'the cache'}: {error.strerror or error}. HF_HUB_CACHE names another folder"
    return None


def _short(error: Exception) -> str:
    lines: List[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
