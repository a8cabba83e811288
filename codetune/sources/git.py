"""The one place that runs git.

A repository's own configuration is hostile until proven otherwise: it can name programs that
git runs (hooks, fsmonitor, filters, ssh commands, external diffs). Local repositories are read
with plumbing commands only, in a clean environment, with those settings overridden and every
transport forbidden; nothing is ever checked out.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from codetune.errors import SourceError

_BARE_READING = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.sshCommand": "false",
    "core.askPass": "",
    "core.attributesFile": os.devnull,
    "core.alternateRefsCommand": "false",
    "core.gitProxy": "",
    "credential.helper": "",
    "diff.external": "",
    "log.showSignature": "false",
    "protocol.allow": "never",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    # Reading another user's repository is safe here: nothing of its configuration is run.
    "safe.directory": "*",
}


@dataclass(frozen=True)
class TreeEntry:
    """One line of a commit's tree. Modes: 100644, 100755, 120000 (symlink), 160000 (submodule)."""

    mode: str
    oid: str
    size: int
    path: str


@dataclass(frozen=True)
class RawChange:
    """What a commit did to one file: `status` M modified, A added, D deleted, T another mode."""

    commit: str
    status: str
    mode: str  # afterwards
    old: str  # object ids
    new: str
    path: str


class GitError(SourceError):
    """git itself failed; what it said names no repository."""


class Git:
    """Read access to one repository; `folder` is its git directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, timeout: float = 300) -> str:
        """Standard output of a plumbing command.

        Raises:
            SourceError: git failed; the message ends with what it said.
        """
        return run_git(
            [f"--git-dir={self.folder}", *arguments], environment=reading(), timeout=timeout
        ).decode("utf-8", "surrogateescape")

    def commit(self, name: str) -> str | None:
        """The full id of the commit that `name` means, or None."""
        if name.startswith("-") or "\0" in name or "\n" in name:
            return None
        with suppress(SourceError):
            line = self.run(
                "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
            ).strip()
            return line or None
        return None

    def branches(self) -> list[str]:
        """The names of its branches, at most 200."""
        listing = self.run(
            "for-each-ref", "--format=%(refname:short)", "--count=200", "refs/heads/"
        )
        return listing.split()

    def tree(self, commit: str, prefix: str = "") -> Iterator[TreeEntry]:
        """Every file of a commit below `prefix`, with sizes from the object headers."""
        arguments = ["ls-tree", "-r", "-z", "-l", "--full-tree", commit]
        listing = self.run(*arguments, "--", *([prefix] if prefix else []))
        for line in listing.split("\0"):
            if line:
                facts, _, path = line.partition("\t")
                mode, _, oid, size = facts.split()
                yield TreeEntry(mode, oid, int(size) if size.isdigit() else 0, path)

    def renames(self, past: str, present: str, prefix: str = "") -> dict[str, str]:
        """New path → old path for the files that git takes for renamed (at least 50 % alike).

        Where the repository lacks some objects (a partial copy), only exact renames are found.
        """
        arguments = ["-r", "-z", "-l4000", "--raw", "--diff-filter=R", "--no-ext-diff"]
        arguments += ["--no-textconv", "--ignore-submodules=all", past, present, "--"]
        arguments += [prefix] if prefix else []
        try:
            listing = self.run("diff-tree", "-M50%", *arguments)
        except SourceError:
            listing = self.run("diff-tree", "-M100%", *arguments)
        fields = listing.split("\0")
        # ":modes oids R087", old path, new path, …
        return {
            fields[at + 2]: fields[at + 1]
            for at in range(0, len(fields) - 2, 3)
            if fields[at].startswith(":")
        }

    def modified(self, commits: Sequence[str], prefix: str = "") -> Iterator[RawChange]:
        """What each commit, none of them a merge, did to files below `prefix`; all in one run.

        A renamed file is one that was deleted and one that was added. The first commit of all
        gives nothing.
        """
        arguments = [f"--git-dir={self.folder}", "diff-tree", "--stdin", "-r", "-z", "--raw"]
        arguments += ["--no-renames", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all"]
        arguments += ["--", *([prefix] if prefix else [])]
        process = _start(arguments, reading(), stdin=subprocess.PIPE)
        try:
            given = "".join(f"{commit}\n" for commit in commits).encode()
            output, _ = process.communicate(given)
        finally:
            end(process)
        if process.returncode != 0:
            raise self._stopped()
        # "<commit>", ":<modes and ids> M", path, …
        fields = iter(output.decode("utf-8", "surrogateescape").split("\0"))
        commit = ""
        for entry in fields:
            if entry.startswith(":"):
                _, mode, old, new, status = entry[1:].split(" ")
                yield RawChange(commit, status, mode, old, new, next(fields))
            else:
                commit = entry.strip()

    def contents(self, oids: Iterable[str]) -> Iterator[bytes | None]:
        """The objects' bytes in order, one at a time; None for one the repository lacks."""
        arguments = [f"--git-dir={self.folder}", "cat-file", "--batch"]
        process = _start(arguments, reading(), stdin=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for batch in _batches(oids, 128):
                # 128 ids are 5 kB: less than a pipe holds, so neither side can block.
                process.stdin.write("".join(f"{oid}\n" for oid in batch).encode())
                process.stdin.flush()
                for oid in batch:
                    yield self._answer(process.stdout, oid)
        except BrokenPipeError as error:
            raise self._stopped() from error
        finally:
            end(process)

    def _answer(self, stream: IO[bytes], oid: str) -> bytes | None:
        """One object of `cat-file --batch`: "<oid> <type> <size>", the bytes, a line end."""
        header = stream.readline().split()
        if not header:
            raise self._stopped()
        if header[-1] == b"missing":
            return None
        content = stream.read(int(header[2]))
        if header[0].decode() != oid or stream.read(1) != b"\n":
            raise self._stopped()
        return content

    def _stopped(self) -> SourceError:
        return SourceError(
            f"git stopped while reading {self.folder}.",
            advice="Run `git fsck` there: objects may be damaged.",
        )


def reading() -> dict[str, str]:
    """The environment for local reading: nothing inherited that could name a program."""
    environment = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    environment |= {
        "LC_ALL": "C.UTF-8",
        "HOME": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LITERAL_PATHSPECS": "1",
    }
    return environment | overrides(_BARE_READING)


def overrides(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings as environment variables: exact for any name, and not visible in argv."""
    environment = {"GIT_CONFIG_COUNT": str(len(settings))}
    for index, (key, value) in enumerate(settings.items()):
        environment[f"GIT_CONFIG_KEY_{index}"] = key
        environment[f"GIT_CONFIG_VALUE_{index}"] = value
    return environment


@cache
def git_version() -> tuple[int, ...]:
    """Major and minor version of the git on this machine.

    Raises:
        SourceError: git is missing.
    """
    said = run_git(["version"], environment=dict(os.environ), timeout=60)
    found = re.search(rb"(\d+)\.(\d+)", said)
    return tuple(int(number) for number in found.groups()) if found else (0, 0)


def run_git(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    timeout: float,
    cwd: Path | None = None,
) -> bytes:
    """Run git to its end.

    Raises:
        SourceError: git is missing, failed, or took longer than `timeout` seconds.
    """
    process = _start(arguments, environment, stdin=subprocess.DEVNULL, cwd=cwd)
    try:
        output, complaint = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            f"git {_verb(arguments)} was given up after {timeout:.0f} s.",
            advice="Raise sources.timeout, or clone the repository yourself and pass its path.",
        ) from error
    finally:
        end(process)
    if process.returncode != 0:
        said = complaint.decode("utf-8", "replace").strip()
        raise GitError(f"git {_verb(arguments)} failed: {said[-500:]}")
    return output


def _start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start git as the leader of its own process group, so that `end` reaches its children."""
    try:
        return subprocess.Popen(
            ["git", *arguments],
            env=dict(environment),
            cwd=cwd,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if stdin == subprocess.DEVNULL else subprocess.DEVNULL,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise SourceError(
            "git is not installed.", advice="Install git, or pass a folder or an archive."
        ) from error


def end(process: subprocess.Popen[bytes]) -> None:
    """End git and whatever it started (its transports outlive it otherwise), and reap it."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _verb(arguments: Sequence[str]) -> str:
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
