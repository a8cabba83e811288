"""An exported folder made a repository of the Hugging Face hub, or of a server like it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from codetune.errors import ConfigError, ExportError
from codetune.progress import Progress
from codetune.registry.store import check_model

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_HERE = ("localhost", "127.0.0.1", "::1")
# Of a repository that is written again: weights of the version before, in other parts.
_REPLACED = ["*.safetensors", "*.safetensors.index.json"]


@dataclass(frozen=True)
class Destination:
    """Where a model goes; `token` None is the login of this machine, False is none at all."""

    repository: str  # owner/name
    endpoint: str | None = None  # [HF_ENDPOINT, else https://huggingface.co]
    token: str | bool | None = None
    public: bool = False

    def __post_init__(self) -> None:
        check_repository(self.repository)
        if self.endpoint is not None:
            check_endpoint(self.endpoint)


def check_repository(name: str) -> str:
    """The name, if the hub takes it.

    Raises:
        ConfigError
    """
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name or name.endswith(".git"):
        raise ConfigError(
            f"'{name[:100]}' cannot be a repository of the hub.", advice="Name it as owner/name."
        )
    return name


def check_endpoint(url: str) -> str:
    """The address, if a token may be sent there: encrypted, or on this machine.

    Raises:
        ConfigError
    """
    if not _is_endpoint(url):
        raise ConfigError(
            f"'{url[:200]}' cannot be the address of a hub.",
            advice="It begins with https:// and holds neither names nor keys.",
        )
    return url.rstrip("/")


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # a bracket that is not closed, a port that is none
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and host in _HERE)
    return safe and bool(host) and not (parts.username or parts.password or parts.query)


def push(
    folder: Path, files: Mapping[str, int], destination: Destination, progress: Progress
) -> str:
    """Upload `folder` in one commit; returns the commit's address.

    Raises:
        ExportError: the hub refuses, cannot be reached, or shows the repository to everybody
            where it is to be private.
        UnsafeModelError: the folder holds something else than safetensors and plain text.
    """
    check_model(folder)
    for name, size in files.items():
        progress.say(f"  {name}  {size:,} bytes")
    import huggingface_hub

    api: Any = huggingface_hub.HfApi(
        endpoint=destination.endpoint, token=destination.token, library_name="codetune"
    )
    name = destination.repository
    with _naming_errors(destination), _without_bars(), _by_git_lfs(destination):
        api.create_repo(name, private=not destination.public, exist_ok=True)
        if not destination.public and not api.model_info(name).private:
            raise ExportError(
                f"The repository {name} can be read by everybody.",
                advice="Say so with --public, make it private, or name another one.",
            )
        with progress.task("Uploading", total=None) as task:
            task.advance(0, note=name)
            done = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                allow_patterns=list(files),
                delete_patterns=_REPLACED,
                commit_message="Model written by codetune",
            )
    return str(done.commit_url)


@contextmanager
def _naming_errors(destination: Destination) -> Iterator[None]:
    """One name for what huggingface_hub, its HTTP library and the network raise."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # the boundary: they share no base
        lines = str(error).strip().splitlines()
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise ExportError(
            f"The hub does not take {destination.repository}: "
            f"{type(error).__name__}: {lines[0][:300] if lines else ''}".rstrip(": "),
            advice="Check the token (HF_TOKEN, or the setting hub.token): it needs the right to "
            "write there."
            if status in (401, 403)
            else "Check the address and the network, and run again: what is there already is not "
            "sent again.",
        ) from error


@contextmanager
def _by_git_lfs(destination: Destination) -> Iterator[None]:
    """Large files by Git LFS's protocol where a server is named: Xet is the public hub's alone."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or destination.endpoint is not None
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


@contextmanager
def _without_bars() -> Iterator[None]:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
