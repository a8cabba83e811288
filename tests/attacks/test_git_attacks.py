"""Repositories and addresses that try to run something, read something, or leak something.

Every repository here is armed with commands that would leave the file `pwned` behind. What makes
the attack real (that git itself would fall for it) is checked first wherever that is possible.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from codetune.artifacts import home
from codetune.errors import SourceError, UnsafeSourceError
from codetune.progress import Progress
from codetune.sources.clone import fetch
from codetune.sources.collect import collect
from codetune.sources.config import SourceOptions
from codetune.sources.identity import parse_address
from codetune.tables import read_rows
from tests.unit.sources.git_server import serving
from tests.unit.sources.repositories import git, make_repository

COMMITS = [{"a.py": f"version = {n}\n", "b.py": "b = 1\n"} for n in range(10)]


@pytest.fixture
def pwned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "pwned"


def read(source: Path | str, tmp_path: Path, **more: bool) -> dict[str, bytes]:
    artifact = collect(str(source), SourceOptions(), tmp_path / "out", Progress(), **more)
    rows = read_rows(artifact / "files.parquet")
    return {row["path"]: row["content"] for row in rows if row["in_present"]}


# Addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "ext::sh -c 'touch {pwned}'",
        "ext::sh%20-c%20touch%20{pwned}",
        "fd::17/foo",
        "--upload-pack=touch {pwned}",
        "-u./evil",
        "ssh://-oProxyCommand=touch%20{pwned}/team/tool",
        "-oProxyCommand=touch {pwned}:team/tool",
        "git@-oProxyCommand=touch {pwned}:team/tool",
        "https://host.org/-team/../--upload-pack=x\n",
        "https://host.org/team/tool\nusername=evil",
    ],
)
@pytest.mark.parametrize("allow_local", [True, False])
def test_addresses_that_are_commands_are_refused(tmp_path, pwned, address, allow_local):
    with pytest.raises(SourceError):
        read(address.format(pwned=pwned), tmp_path, allow_local=allow_local)
    assert not pwned.exists()


@pytest.mark.parametrize("address", ["ext::sh -c x", "--upload-pack=x", "git@-oX=y:team/tool"])
def test_such_addresses_are_called_unsafe(tmp_path, pwned, address):
    with pytest.raises(UnsafeSourceError):
        read(address, tmp_path)


@pytest.mark.parametrize(
    "form", ["{path}", "file://{path}", "FILE://{path}", "file://localhost{path}"]
)
def test_local_paths_are_refused_for_remote_users(tmp_path, pwned, form):
    repo = make_repository(tmp_path / "private", COMMITS[:1])
    source = form.format(path=repo)
    with pytest.raises(UnsafeSourceError):
        read(source, tmp_path, allow_local=False)
    assert "a.py" in read(source, tmp_path)  # and are welcome from the user of this machine


@pytest.mark.parametrize("ref", ["--output={pwned}", "-n1 --exec=touch", "HEAD\n--all", "@{{-1}}"])
def test_a_branch_that_is_an_option_is_refused(tmp_path, pwned, ref):
    repo = make_repository(tmp_path / "team", COMMITS)
    for options in ({"ref": ref.format(pwned=pwned)}, {"cutoff": ref.format(pwned=pwned)}):
        with pytest.raises(SourceError):
            collect(str(repo), SourceOptions(**options), tmp_path / "out", Progress())
    assert not pwned.exists()


def test_a_redirect_to_another_transport_is_not_followed(tmp_path, pwned, monkeypatch):
    """The user's own url.insteadOf must not turn https:// into a command either."""
    config = tmp_path / "gitconfig"
    config.write_text(
        f"[url \"ext::sh -c 'touch {pwned}' \"]\n\tinsteadOf = https://evil.example/\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    with pytest.raises(SourceError):
        read("https://evil.example/team/tool", tmp_path)
    assert not pwned.exists()


# Local repositories that are armed ------------------------------------------------------------


def arm(repo: Path, pwned: Path) -> None:
    """Every setting we know of that makes git run a program while it reads or compares."""
    touch = repo / ".git" / "evil.sh"
    touch.write_text(f"#!/bin/sh\ntouch {pwned}\ncat\n")
    touch.chmod(0o755)
    for hook in (
        "post-checkout",
        "post-index-change",
        "reference-transaction",
        "fsmonitor-watchman",
    ):
        target = repo / ".git" / "hooks" / hook
        target.parent.mkdir(exist_ok=True)
        target.write_text(touch.read_text())
        target.chmod(0o755)
    settings = {
        "core.fsmonitor": touch,
        "core.sshCommand": touch,
        "core.askPass": touch,
        "core.gitProxy": touch,
        "core.pager": touch,
        "core.editor": touch,
        "core.alternateRefsCommand": touch,
        "core.hooksPath": repo / ".git" / "hooks",
        "pager.log": touch,
        "diff.external": touch,
        "diff.evil.textconv": touch,
        "diff.evil.command": touch,
        "filter.evil.clean": touch,
        "filter.evil.smudge": touch,
        "filter.evil.process": touch,
        "filter.evil.required": "true",
        "filter.a=b.clean": touch,
        "gpg.program": touch,
        "log.showSignature": "true",
        "credential.helper": f"!{touch}",
        "uploadpack.packObjectsHook": touch,
        "alias.rev-parse": f"!{touch}",
        "alias.cat-file": f"!{touch}",
        "include.path": "more.config",
        "submodule.recurse": "true",
    }
    for key, value in settings.items():
        git(repo, "config", key, str(value))
    (repo / ".git" / "more.config").write_text(f'[filter "hidden"]\n\tclean = {touch}\n')
    attributes = "*.py filter=evil diff=evil\nb.py filter=hidden\nc.py filter=a=b\n"
    (repo / ".gitattributes").write_text(attributes)
    (repo / ".git" / "info").mkdir(exist_ok=True)
    (repo / ".git" / "info" / "attributes").write_text(attributes)


def test_an_armed_repository_runs_nothing(tmp_path, pwned):
    repo = make_repository(tmp_path / "team", COMMITS)
    arm(repo, pwned)
    (repo / "a.py").write_text("changed = 1\n")  # so that a comparison must look at contents
    (repo / "b.py").write_text("changed = 1\n")
    assert read(repo, tmp_path)["a.py"] == b"version = 9\n"
    assert not pwned.exists()
    subprocess.run(["git", "status"], cwd=repo, capture_output=True)
    assert pwned.exists(), "the repository was not armed: this test proves nothing"


def test_a_partial_clone_fetches_nothing(tmp_path, pwned):
    """A missing object of a promisor remote would be fetched through any transport."""
    repo = make_repository(tmp_path / "team", COMMITS)
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.url": f"ext::touch {pwned}",
        "remote.origin.promisor": "true",
        "protocol.allow": "always",
        "protocol.ext.allow": "always",
    }.items():
        git(repo, "config", key, value)
    oid = git(repo, "rev-parse", "HEAD:b.py")
    (repo / ".git" / "objects" / oid[:2] / oid[2:]).unlink()
    assert list(read(repo, tmp_path)) == ["a.py"]
    assert not pwned.exists()
    subprocess.run(["git", "cat-file", "-p", oid], cwd=repo, capture_output=True)
    assert pwned.exists(), "the repository was not armed: this test proves nothing"


def test_nothing_of_the_environment_redirects_git(tmp_path, pwned, monkeypatch):
    repo = make_repository(tmp_path / "team", COMMITS[:1])
    other = make_repository(tmp_path / "other", [{"other.py": "o = 1\n"}])
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / ".git" / "objects"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", f"touch {pwned}")
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.bare=true'")
    assert sorted(read(repo, tmp_path)) == ["a.py", "b.py"]
    assert not pwned.exists()


def test_submodules_are_not_entered(tmp_path, pwned):
    inner = make_repository(tmp_path / "inner", [{"secret.py": "secret = 1\n"}])
    repo = make_repository(tmp_path / "team", COMMITS[:1])
    git(repo, "submodule", "--quiet", "add", str(inner), "sub")
    git(repo, "config", "-f", ".gitmodules", "submodule.sub.update", f"!touch {pwned}")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "sub")
    assert sorted(read(repo, tmp_path)) == [".gitmodules", "a.py", "b.py"]
    assert not pwned.exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside.py", "/proc/self/environ"])
def test_a_link_out_of_the_tree_is_not_followed(tmp_path, pwned, target):
    (tmp_path / "outside.py").write_text("outside = 1\n")
    repo = make_repository(tmp_path / "team", COMMITS[:1])
    (repo / "link.py").symlink_to(target)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "link")
    assert sorted(read(repo, tmp_path)) == ["a.py", "b.py"]


def test_a_path_with_a_climb_in_a_tree_is_only_a_label(tmp_path, pwned):
    """Trees can hold names that git would refuse to check out; nothing here checks out."""
    repo = make_repository(tmp_path / "team", COMMITS[:1])
    blob = git(repo, "rev-parse", "HEAD:a.py")
    inner = make_tree(repo, f"100644 blob {blob}\t..\n")
    outer = make_tree(repo, f"040000 tree {inner}\t..\n")
    commit = git(repo, "commit-tree", outer, "-m", "climb")
    git(repo, "update-ref", "HEAD", commit)
    assert list(read(repo / ".git", tmp_path)) == ["../.."]
    assert not list(tmp_path.glob("out/*/../../*.py"))


def make_tree(repo: Path, entries: str) -> str:
    command = ["git", "mktree"]
    return subprocess.run(
        command, cwd=repo, input=entries, text=True, capture_output=True, check=True
    ).stdout.strip()


# Remote repositories --------------------------------------------------------------------------

TOKEN = "ghp_012345678901234567890123456789012345"


@pytest.fixture
def served(tmp_path: Path) -> Path:
    work = make_repository(tmp_path / "work", COMMITS)
    root = tmp_path / "server"
    (root / "team").mkdir(parents=True)
    git(work, "clone", "-q", "--bare", str(work), str(root / "team" / "tool.git"))
    return root


def test_a_token_reaches_the_server_and_nothing_else(tmp_path, pwned, served, monkeypatch):
    """Not the copy's files, not the artifact, not git's arguments, not the user's own helpers."""
    store = tmp_path / "credentials"
    config = tmp_path / "gitconfig"
    config.write_text(f"[credential]\n\thelper = store --file={store}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    seen = spy_on_git(tmp_path, monkeypatch)
    with serving(served, user="me", password=TOKEN) as host:
        found = read(f"http://me:{TOKEN}@{host}/team/tool.git", tmp_path)
    assert found["a.py"] == b"version = 9\n"
    assert "remote-http" in seen.read_text()
    assert TOKEN not in seen.read_text()
    assert not store.exists()
    for file in [*home().rglob("*"), *(tmp_path / "out").rglob("*")]:
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_a_wrong_token_is_not_in_the_message(tmp_path, pwned, served):
    with serving(served, user="me", password="right") as host, pytest.raises(SourceError) as error:
        read(f"http://me:{TOKEN}@{host}/team/tool.git", tmp_path)
    chain: BaseException | None = error.value
    while chain is not None:
        assert TOKEN not in str(chain) + repr(chain)
        chain = chain.__cause__
    assert "password" in error.value.message


def spy_on_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let git write down the arguments of everything it starts."""
    seen = tmp_path / "arguments"
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    real = subprocess.run(["which", "git"], capture_output=True, text=True).stdout.strip()
    wrapper.write_text(f'#!/bin/sh\necho "git $*" >> {seen}\nGIT_TRACE={seen} exec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    return seen


def test_a_cloned_copy_has_no_hooks_and_no_address(tmp_path, pwned, served, monkeypatch):
    template = tmp_path / "template" / "hooks"
    template.mkdir(parents=True)
    for hook in ("post-checkout", "reference-transaction", "post-merge"):
        (template / hook).write_text(f"#!/bin/sh\ntouch {pwned}\n")
        (template / hook).chmod(0o755)
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(template.parent))
    with serving(served) as host:
        git_copy = fetch(parse_address(f"http://{host}/team/tool.git"), Progress(), timeout=60)
    assert not (git_copy.folder / "hooks").exists()
    assert host not in (git_copy.folder / "config").read_text()
    assert not pwned.exists()


def test_a_server_that_hangs_is_given_up(tmp_path, pwned):
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(SourceError, match="given up"):
            options = SourceOptions(timeout=2)
            collect(f"http://127.0.0.1:{port}/t/r", options, tmp_path / "out", Progress())
        assert time.monotonic() - start < 20
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"127.0.0.1:{port}" in " ".join(process.info["cmdline"] or ())
    ]
    _, alive = psutil.wait_procs(left, timeout=5)  # a killed process takes a moment to be gone
    assert not alive, "a child of git is still running"


# What users send ------------------------------------------------------------------------------

# Files that make a folder a repository whose objects are another's: {git} is its git directory,
# {oid} its last commit.
_BORROWED = {
    "HEAD": "ref: refs/heads/main\n",
    "config": "[core]\n\tbare = true\n",
    "refs/heads/main": "{oid}\n",
    "objects/info/alternates": "{git}/objects\n",
}
LAYOUTS = {
    "gitdir": {".git": "gitdir: {git}\n"},
    "alternates": {f".git/{path}": text for path, text in _BORROWED.items()},
    "commondir": {
        ".git/HEAD": "ref: refs/heads/main\n",
        ".git/commondir": "{git}\n",
        ".git/objects/a": "",
        ".git/refs/a": "",
    },
    "bare": _BORROWED,
}


def send(folder: Path, layout: dict[str, str], victim: Path) -> Path:
    facts = {"git": victim / ".git", "oid": git(victim, "rev-parse", "HEAD")}
    for path, text in {"mine.py": "x = 1\n", "lib/more.py": "y = 1\n", **layout}.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(**facts))
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("below", [".", "lib"])
def test_a_folder_that_was_sent_reads_no_other_repository(tmp_path, pwned, layout, below):
    victim = make_repository(tmp_path / "private", [{"private.py": "p = 1\n"}])
    borrowing = send(tmp_path / "own", LAYOUTS[layout], victim)
    assert list(read(borrowing, tmp_path)) == ["private.py"], "this layout proves nothing"
    for number, inner in enumerate((".", "deep/er")):
        sent = home() / "uploads" / f"src_{number}"
        send(sent / inner, LAYOUTS[layout], victim)
        found = read(sent / inner / below, tmp_path)
        assert {"mine.py", "more.py"} & {Path(path).name for path in found}
        assert "private.py" not in found
        assert "private.py" not in read(sent, tmp_path)


def test_a_folder_that_was_sent_is_no_part_of_a_repository_around_the_home(
    tmp_path, monkeypatch, pwned
):
    sent = tmp_path / "around/home/uploads/src_1"
    make_repository(tmp_path / "around", [{"home/uploads/src_1/a.py": "committed = 1\n"}])
    (sent / "a.py").write_text("sent = 1\n")
    assert list(read(sent, tmp_path).values()) == [b"committed = 1\n"]
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "around/home"))
    assert read(sent, tmp_path) == {"a.py": b"sent = 1\n"}
