"""A bare copy of a remote repository in `$CODETUNE_HOME/cache/git`, fetched and never checked out.

The copy is made by `init` and `fetch`, not by `clone`: so the address, which may hold a token,
is never written to the copy's configuration, and a second run is the same command. A token
reaches git through its environment, answering only for the host it was given for.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from codetune.artifacts import digest_of, home
from codetune.errors import SourceError, UnsafeSourceError
from codetune.progress import Progress
from codetune.sources.git import Git, git_version, overrides, run_git
from codetune.sources.identity import Address, without_credentials
from codetune.sources.sites import public_addresses

HEAD = "refs/codetune/head"  # what the remote's HEAD was at the last fetch

BINDS = (2, 37)  # the first git that takes http.curloptResolve
_TRANSPORTS = "https:http:ssh:git"
_SAFE_FETCHING = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "fetch.recurseSubmodules": "false",
    "submodule.recurse": "false",
    "fetch.fsckObjects": "true",
    # Old histories hold harmless oddities that would stop the fetch of well-known projects.
    "fetch.fsck.zeroPaddedFilemode": "ignore",
    "fetch.fsck.missingSpaceBeforeDate": "ignore",
    "fetch.fsck.badTimezone": "ignore",
    "fetch.fsck.missingEmail": "ignore",
    "fetch.fsck.badEmail": "ignore",
    "fetch.fsck.badName": "ignore",
    "fetch.fsck.hasDotgit": "ignore",
    "fetch.fsck.gitmodulesName": "ignore",
    "fetch.fsck.gitmodulesParse": "ignore",
    "fetch.fsck.gitmodulesUrl": "ignore",
    "transfer.credentialsInUrl": "die",
    "gc.auto": "0",
    "maintenance.auto": "false",
}
_HELPER = (
    '!f() { test "$1" = get && '
    'printf "username=%s\\npassword=%s\\n" "$CODETUNE_GIT_USER" "$CODETUNE_GIT_PASSWORD"; }; f'
)


def fetch(
    address: Address,
    progress: Progress,
    *,
    timeout: float,
    sites: Collection[str] | None = None,
) -> Git:
    """The up-to-date copy of the repository at `address`.

    With `sites`, only public hosts are read, and these: for addresses that other people name.

    Raises:
        SourceError: it cannot be reached, needs a password, or is empty.
        UnsafeSourceError: it is inside the server's network.
    """
    found = _places(address, sites) if sites is not None else []
    folder = home() / "cache" / "git" / f"{digest_of(address.url)}.git"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environment = _environment(address, found, follow=sites is None)
        if not (folder / "HEAD").exists():
            run_git(
                ["init", "--quiet", "--bare", "--template=", "--", str(folder)],
                environment=environment,
                timeout=timeout,
            )
        _tidy(folder)
        with progress.task(f"fetch {address.url}"):
            _fetch(folder, address, environment, timeout)
    return Git(folder)


def _tidy(folder: Path) -> None:
    """Remove what a git that was killed has left: its locks would refuse every later fetch.

    The caller holds the copy's own lock, so that no other git is at work in it.
    """
    for left in (*folder.rglob("*.lock"), *folder.glob("objects/pack/tmp_*")):
        left.unlink(missing_ok=True)


def _fetch(folder: Path, address: Address, environment: dict[str, str], timeout: float) -> None:
    arguments = [f"--git-dir={folder}", "fetch", "--quiet", "--prune", "--force", "--no-tags"]
    arguments += ["--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-gc"]
    arguments += ["--", address.url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]

    def run(*more: str) -> None:
        run_git([*arguments, *more], environment=environment, timeout=timeout)

    try:
        try:
            run(f"+HEAD:{HEAD}")
        except SourceError as error:
            if _NO_HEAD not in error.message:
                raise
            # Its HEAD may name a branch that nobody pushed, and another one be wanted.
            run()
            copy = Git(folder)
            copy.run("update-ref", "-d", HEAD)
            if not copy.branches():
                raise
    except SourceError as error:
        raise _explain(address, error) from error


def _places(address: Address, sites: Collection[str]) -> list[str]:
    """The IP addresses that the fetch is bound to; none where it needs no binding."""
    found = public_addresses(address.host, sites)
    if not found or address.scheme == "ssh":
        return found
    if address.scheme == "git":
        raise UnsafeSourceError(
            "git:// addresses are not read for other people: who answers cannot be made sure of.",
            advice="Use an https:// or ssh:// address.",
        )
    if git_version() < BINDS:
        needed = ".".join(map(str, BINDS))
        raise SourceError(
            f"Reading {address.host} for other people takes git {needed} or newer.",
            advice="Install it on the server, or name the host in `sites` of jobs.yaml.",
        )
    return found


def _environment(address: Address, found: Sequence[str], *, follow: bool) -> dict[str, str]:
    """The user's own environment (proxy, ssh agent, credential helpers), with the doors shut.

    `found` are the host's addresses, if the fetch must go there; `follow`: to other hosts, too.
    """
    inherited = {name: value for name, value in os.environ.items() if not _names_a_program(name)}
    settings = dict(_SAFE_FETCHING)
    ssh = ["ssh", "-oBatchMode=yes"]
    if not follow:
        settings["http.followRedirects"] = "false"
    if found:
        port = address.port or (443 if address.scheme == "https" else 80)
        settings["http.curloptResolve"] = f"{address.host}:{port}:{','.join(found)}"
        # ssh takes one: IPv4, which is there where IPv6 only seems to be.
        place = min(found, key=lambda ip: ":" in ip)
        known = address.host if address.port in (None, 22) else f"[{address.host}]:{address.port}"
        ssh += [f"-oHostName={place}", f"-oHostKeyAlias={known}"]
    secret = {}
    if address.scheme in ("http", "https") and address.user:
        site = address.url.removesuffix(address.path)
        # An empty value forgets the user's helpers: they would store the token on disk.
        settings |= {"credential.helper": "", f"credential.{site}.helper": _HELPER}
        secret = {
            "CODETUNE_GIT_USER": address.user,
            "CODETUNE_GIT_PASSWORD": address.password or "x-oauth-basic",
        }
    return {
        **inherited,
        **secret,
        "LC_ALL": "C.UTF-8",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_ALLOW_PROTOCOL": _TRANSPORTS,
        "GIT_SSH_COMMAND": shlex.join(ssh),
        **overrides(settings),
    }


def _names_a_program(name: str) -> bool:
    """Variables that would point git at another repository, or make it run or write something."""
    return name.startswith("GIT_") and not name.startswith(
        ("GIT_SSL_", "GIT_HTTP_", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
    )


_NO_HEAD = "couldn't find remote ref HEAD"
_ADVICE = {
    _NO_HEAD: ("is empty", "Push a first commit, or pass another branch."),
    "not found": ("does not exist, or needs a password", "Check the spelling and your rights."),
    "terminal prompts disabled": (
        "does not exist, or needs a password",
        "Set up a git credential helper, or use an ssh:// address with a key in your agent.",
    ),
    "Authentication failed": ("refused the password", "Check the token and its rights."),
    "Permission denied": ("refused the key", "Check your ssh agent (`ssh-add -l`)."),
    "does not appear to be a git repository": ("is not a git repository", "Check the address."),
    "not valid: is this a git repository": ("is not a git repository", "Check the address."),
    "returned error: 30": ("has moved", "Use its present one: https://, or with .git at its end."),
    "Could not resolve host": ("cannot be reached", "Check the host's name and the network."),
    "Name or service not known": ("cannot be reached", "Check the host's name and the network."),
}


def _explain(address: Address, error: SourceError) -> SourceError:
    said = without_credentials(error.message)
    for phrase, (what, advice) in _ADVICE.items():
        if phrase.lower() in said.lower():
            return SourceError(f"{address.url} {what}.", advice=advice)
    if "given up" in said:
        return SourceError(f"{address.url}: {said}", advice=error.advice)
    last = said.splitlines()[-1] if said else "git gave no reason"
    return SourceError(
        f"{address.url} cannot be fetched: {last}", advice="Check the address and the network."
    )
