"""A local repository: where its git directory is, who it is, and whether work is uncommitted."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from codetune.errors import SourceError
from codetune.sources.git import Git, reading, run_git
from codetune.sources.identity import parse_address


@dataclass(frozen=True)
class Local:
    """A repository on this machine; `prefix` is the part of its tree that was asked for."""

    git: Git
    top: Path  # the working tree's root, or the bare git directory
    prefix: str  # "" or "some/folder/"
    bare: bool

    @property
    def name(self) -> str:
        """host/owner/name of the remote `origin`, else the folder's name."""
        with suppress(SourceError):
            url = self.git.run("config", "--get", "remote.origin.url").strip()
            address = parse_address(url)
            if address.host:
                return address.name
        return self.top.name.removesuffix(".git") or "repository"


def find_repository(path: Path) -> Local | None:
    """The repository that `path` belongs to, or None.

    Found without asking git, which would obey the folder's own settings while looking.

    Raises:
        SourceError: it has a `.git` that is none: as a folder, what is not committed would be read.
    """
    path = path.resolve()
    if _is_git_directory(path):
        top = path.parent if path.name == ".git" else path
        return Local(Git(path), top, "", bare=path.name != ".git")
    for top in (path, *path.parents):
        folder = _git_directory_of(top)
        if folder is not None:
            prefix = "" if top == path else f"{path.relative_to(top).as_posix()}/"
            return Local(Git(folder), top, prefix, bare=False)
        if top == path and os.path.lexists(top / ".git"):
            raise SourceError(
                f"{path} has a .git that is no usable repository.",
                advice="Mend it (`git worktree repair`, `git submodule update --init`), or delete "
                "it to read a plain folder without history.",
            )
    return None


def uncommitted(local: Local) -> int:
    """How many files of the working tree differ from HEAD or are new; 0 for a bare repository.

    `git status` compares through the repository's content filters, which are programs of its
    own choice: each one found is switched off.
    """
    if local.bare:
        return 0
    filters = ""
    with suppress(SourceError):  # exit code 1: none configured
        filters = local.git.run("config", "--name-only", "-z", "--get-regexp", r"^filter\..*")
    settings: dict[str, str] = {}
    for key in filter(None, filters.split("\0")):
        section = key.rpartition(".")[0]
        settings |= {f"{section}.clean": "", f"{section}.smudge": "", f"{section}.process": ""}
        settings[f"{section}.required"] = "false"
    environment = reading()
    count = int(environment["GIT_CONFIG_COUNT"])
    for index, (key, value) in enumerate(settings.items(), start=count):
        environment[f"GIT_CONFIG_KEY_{index}"] = key
        environment[f"GIT_CONFIG_VALUE_{index}"] = value
    environment["GIT_CONFIG_COUNT"] = str(count + len(settings))
    arguments = [f"--git-dir={local.git.folder}", f"--work-tree={local.top}", "status"]
    arguments += ["--porcelain", "-z", "--no-renames", "--ignore-submodules=all", "--"]
    found = run_git(
        [*arguments, *([local.prefix] if local.prefix else [])],
        environment=environment,
        timeout=30,
        cwd=local.top,
    )
    return found.count(b"\0")


def _git_directory_of(top: Path) -> Path | None:
    """The git directory named by `top/.git`, which is a folder, or a file in a linked worktree."""
    entry = top / ".git"
    if _is_git_directory(entry):
        return entry
    if entry.is_file() and entry.stat().st_size < 4096:
        match = re.fullmatch(r"gitdir: (.+?)\n*", entry.read_text(errors="replace"))
        if match:
            folder = (top / match[1]).resolve()
            return folder if (folder / "HEAD").is_file() else None
    return None


def _is_git_directory(path: Path) -> bool:
    has_head = (path / "HEAD").is_file() or (path / "HEAD").is_symlink()
    return has_head and (path / "objects").is_dir() and (path / "refs").is_dir()
