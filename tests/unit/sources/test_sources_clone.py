"""Repositories by address, from a real git server on loopback."""

from __future__ import annotations

import json

import pytest

from codetune.artifacts import home
from codetune.errors import SourceError
from tests.unit.sources.git_server import serving
from tests.unit.sources.repositories import git, make_repository

COMMITS = [{"a.py": f"version = {n}\n"} for n in range(10)]


@pytest.fixture
def served(tmp_path):
    """A team's repository as a server has it: team/tool.git below the folder."""
    work = make_repository(tmp_path / "work", COMMITS)
    root = tmp_path / "server"
    (root / "team").mkdir(parents=True)
    git(work, "clone", "-q", "--bare", str(work), str(root / "team" / "tool.git"))
    git(work, "remote", "add", "origin", str(root / "team" / "tool.git"))
    return work, root


def test_a_remote_repository_is_fetched_and_named(served, collected):
    work, root = served
    with serving(root) as host:
        found = collected(f"http://{host}/team/tool.git")
    repository = json.loads((found.artifact / "repository.json").read_text())
    assert repository["name"] == "127.0.0.1/team/tool"
    assert repository["location"] == f"http://{host}/team/tool.git"
    assert repository["commit"] == git(work, "rev-parse", "HEAD")
    assert repository["cutoff"] == git(work, "rev-parse", "HEAD~1")
    assert found.content("a.py") == b"version = 9\n"


def test_a_second_run_fetches_what_is_new_into_the_same_copy(served, collected):
    work, root = served
    with serving(root) as host:
        first = collected(f"http://{host}/team/tool.git")
        (work / "b.py").write_text("b = 1\n")
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", "more")
        git(work, "push", "-q", "origin", "HEAD")
        second = collected(f"http://{host}/team/tool.git")
    assert first.paths() == ["a.py"]
    assert second.paths() == ["a.py", "b.py"]
    assert len(list((home() / "cache" / "git").glob("*.git"))) == 1


def test_a_rewritten_history_is_followed(served, collected):
    work, root = served
    with serving(root) as host:
        collected(f"http://{host}/team/tool.git")
        git(work, "reset", "-q", "--hard", "HEAD~2")
        git(work, "push", "-q", "--force", "origin", "HEAD")
        assert collected(f"http://{host}/team/tool.git").content("a.py") == b"version = 7\n"


def test_other_branch_of_a_remote(served, collected):
    work, root = served
    git(work, "push", "-q", "origin", "HEAD~4:refs/heads/old")
    with serving(root) as host:
        found = collected(f"http://{host}/team/tool.git", ref="old")
    assert found.content("a.py") == b"version = 5\n"


@pytest.mark.parametrize(
    "path, says",
    [("/team/none.git", "does not exist"), ("/", "names a host, but no repository")],
)
def test_unreachable_addresses_are_explained(served, collected, path, says):
    with serving(served[1]) as host, pytest.raises(SourceError, match=says):
        collected(f"http://{host}{path}")


def test_a_host_that_does_not_answer_is_explained(collected):
    with pytest.raises(SourceError, match="cannot be fetched") as error:
        collected("http://127.0.0.1:9/team/tool.git")
    assert "network" in error.value.advice


def test_an_empty_remote_repository_is_explained(tmp_path, collected):
    root = tmp_path / "server"
    root.mkdir()
    git(root, "init", "-q", "--bare", "empty.git")
    with serving(root) as host, pytest.raises(SourceError, match="is empty"):
        collected(f"http://{host}/empty.git")


def test_a_head_without_its_branch_is_told_with_the_branches_that_there_are(served, collected):
    _, root = served
    bare = root / "team" / "tool.git"
    with serving(root) as host:
        collected(f"http://{host}/team/tool.git")
        git(bare, "symbolic-ref", "HEAD", "refs/heads/master")
        for source in (f"http://{host}/team/tool.git", bare):
            with pytest.raises(SourceError, match="HEAD names a branch that does not") as error:
                collected(source)
            assert error.value.advice == "Name one with sources.ref: main."
            assert collected(source, ref="main").content("a.py") == b"version = 9\n"


def test_what_a_killed_git_leaves_behind_refuses_no_later_fetch(served, collected):
    work, root = served
    with serving(root) as host:
        collected(f"http://{host}/team/tool.git")
        (copy,) = (home() / "cache" / "git").glob("*.git")
        left = [
            copy / "refs" / "heads" / "main.lock",
            copy / "packed-refs.lock",
            copy / "objects" / "pack" / "tmp_pack_x",
        ]
        for file in left:
            file.write_text("")
        git(work, "commit", "-q", "--allow-empty", "-m", "more")
        git(work, "push", "-q", "origin", "HEAD")
        collected(f"http://{host}/team/tool.git")
    assert git(copy, "rev-parse", "main") == git(work, "rev-parse", "HEAD")
    assert not any(file.exists() for file in left)


def test_a_password_is_needed_and_missing(served, collected):
    with (
        serving(served[1], user="me", password="s3cret") as host,
        pytest.raises(SourceError, match="needs a password"),
    ):
        collected(f"http://{host}/team/tool.git")
