"""Git repositories by path: what is read, where the past ends, and what is said about it."""

from __future__ import annotations

import json
import os

import pytest

from codetune.errors import SourceError
from codetune.tables import read_rows
from tests.unit.sources.repositories import git, make_repository

TEN = [{"a.py": f"version = {n}\n", f"f{n}.py": f"n = {n}\n"} for n in range(10)]


def test_reads_the_last_commit_and_says_that_the_working_tree_differs(tmp_path, collected):
    repo = make_repository(tmp_path / "team", [{"a.py": "committed = 1\n"}])
    (repo / "a.py").write_text("changed = 2\n")
    (repo / "new.py").write_text("untracked = 3\n")
    found = collected(repo)
    assert found.content("a.py") == b"committed = 1\n"
    assert found.paths() == ["a.py"]
    assert found.said == ["2 uncommitted files: the last commit is read, not the working tree."]


def test_says_nothing_about_a_clean_working_tree(tmp_path, collected):
    assert collected(make_repository(tmp_path / "team", [{"a.py": "a = 1\n"}])).said == []


def test_share_of_commits_divides_past_and_present(tmp_path, collected):
    repo = make_repository(tmp_path / "team", TEN)
    found = collected(repo, cutoff=0.2)
    assert found.artifact.summary["cutoff"] == git(repo, "rev-parse", "HEAD~2")
    rows = {(r["path"], r["in_past"], r["in_present"]): r for r in found.rows}
    assert rows["a.py", True, False]["content"] == b"version = 7\n"
    assert rows["a.py", False, True]["content"] == b"version = 9\n"
    assert rows["a.py", False, True]["previous_path"] == "a.py"
    assert rows["a.py", True, False]["previous_path"] is None
    assert rows["f3.py", True, True]["previous_path"] == "f3.py"
    assert rows["f9.py", False, True]["previous_path"] is None
    assert [r["in_past"] for r in found.rows] == sorted(r["in_past"] for r in found.rows)[::-1]


def test_deleted_and_renamed_files(tmp_path, collected):
    body = "".join(f"def f{n}():\n    return {n}\n" for n in range(20))
    commits = [
        {"old.py": body, "gone.py": "gone = 1\n"},
        *({"x.py": f"x = {n}\n"} for n in "abcdefgh"),
    ]
    commits += [{"old.py": None, "gone.py": None, "lib/new.py": body + "more = 1\n"}]
    found = collected(make_repository(tmp_path / "team", commits), cutoff=0.1)
    rows = {(r["path"], r["in_past"], r["in_present"]): r for r in found.rows}
    assert rows["lib/new.py", False, True]["previous_path"] == "old.py"
    assert ("old.py", True, False) in rows
    assert ("gone.py", True, False) in rows


@pytest.mark.parametrize("count, splits", [(7, False), (8, True)])
def test_a_short_history_is_not_divided(tmp_path, collected, count, splits):
    repo = make_repository(tmp_path / "team", TEN[:count])
    found = collected(repo)
    assert (found.artifact.summary["cutoff"] is not None) is splits
    assert all(r["in_past"] and r["in_present"] for r in found.rows) is not splits


def test_cutoff_by_date_and_by_commit_mean_the_same(tmp_path, collected):
    repo = make_repository(tmp_path / "team", TEN)
    expected = git(repo, "rev-parse", "HEAD~4")  # the commit of 6 January
    assert collected(repo, cutoff="2026-01-07").artifact.summary["cutoff"] == expected
    assert collected(repo, cutoff=expected[:10]).artifact.summary["cutoff"] == expected
    assert collected(repo, cutoff=None).artifact.summary["cutoff"] is None


@pytest.mark.parametrize(
    "cutoff, says",
    [
        ("2020-01-01", "No commit is older"),
        ("2030-01-01", "nothing would be left to test on"),
        ("2026-13-01", "not an ISO date"),
        ("nowhere", "does not exist"),
        ("HEAD", "nothing would be left to test on"),
        ("other", "not an ancestor"),
        ("--all", "does not exist"),
    ],
)
def test_impossible_cutoffs_are_explained(tmp_path, collected, cutoff, says):
    repo = make_repository(tmp_path / "team", TEN)
    git(repo, "checkout", "-q", "-b", "other", "HEAD~3")
    git(repo, "commit", "-q", "--allow-empty", "-m", "aside")
    git(repo, "checkout", "-q", "main")
    with pytest.raises(SourceError, match=says) as error:
        collected(repo, cutoff=cutoff)
    assert error.value.advice


def test_same_commit_is_a_skip_and_a_new_commit_is_not(tmp_path, collected):
    repo = make_repository(tmp_path / "team", TEN[:2])
    first, again = collected(repo), collected(repo)
    assert first.artifact.path == again.artifact.path
    make = repo / "b.py"
    make.write_text("b = 1\n")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "more")
    assert collected(repo).artifact.path != first.artifact.path


def test_name_is_host_owner_and_name_of_origin(tmp_path, collected):
    repo = make_repository(tmp_path / "clone", TEN[:1])
    git(repo, "remote", "add", "origin", "https://me:s3cret@git.example.org/Team/Tool.git")
    found = collected(repo)
    repository = json.loads((found.artifact / "repository.json").read_text())
    assert repository["name"] == "git.example.org/Team/Tool"
    assert repository["commit"] == git(repo, "rev-parse", "HEAD")
    assert found.rows[0]["repo"] == "git.example.org/Team/Tool"
    assert "s3cret" not in json.dumps(repository)


def test_name_without_origin_is_the_folder(tmp_path, collected):
    repo = make_repository(tmp_path / "tool", TEN[:1])
    assert collected(repo).artifact.summary["repository"] == "tool"


def test_bare_repository_worktree_and_git_folder(tmp_path, collected):
    repo = make_repository(tmp_path / "team", TEN[:3])
    git(tmp_path, "clone", "-q", "--bare", str(repo), "bare.git")
    git(repo, "worktree", "add", "-q", str(tmp_path / "tree"), "HEAD~1")
    everything = collected(repo).paths()
    assert collected(tmp_path / "bare.git").paths() == everything
    assert collected(repo / ".git").paths() == everything
    assert collected(tmp_path / "tree").paths() == ["a.py", "f0.py", "f1.py"]


def test_subfolder_of_a_repository_keeps_its_paths(tmp_path, collected):
    repo = make_repository(tmp_path / "team", [{"src/a.py": "a = 1\n", "src2/b.py": "b = 1\n"}])
    found = collected(repo / "src")
    assert found.paths() == ["src/a.py"]
    assert found.artifact.summary["repository"] == "team"


def test_untracked_subfolder_is_read_as_a_folder(tmp_path, collected):
    repo = make_repository(tmp_path / "team", [{"a.py": "a = 1\n"}])
    (repo / "drafts").mkdir()
    (repo / "drafts" / "b.py").write_text("b = 1\n")
    found = collected(repo / "drafts")
    assert found.paths() == ["b.py"]
    assert found.artifact.summary["commit"] is None
    assert "not tracked" in found.said[0]


def test_odd_names_are_kept_apart(tmp_path, collected):
    names = ["a b.py", "tab\there.py", "new\nline.py", "ünï.py", "-dash.py", "[x].py"]
    repo = make_repository(
        tmp_path / "team", [{name: f"{n} = 1\n" for n, name in enumerate(names)}]
    )
    (repo / os.fsdecode(b"latin\xe9.py")).write_text("x = 1\n")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "more")
    assert sorted(collected(repo).paths()) == sorted([*names, "latin\ufffd.py"])


def test_a_huge_file_is_listed_and_never_read(tmp_path, collected):
    repo = make_repository(tmp_path / "team", [{"a.py": "a = 1\n", "big.py": b"x = 1\n" * 50_000}])
    found = collected(repo, largest_file=100_000)
    assert found.skipped == {"big.py": "too_large"}


def test_submodules_symlinks_and_lfs_pointers_are_listed(tmp_path, collected):
    inner = make_repository(tmp_path / "inner", [{"i.py": "i = 1\n"}])
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    repo = make_repository(tmp_path / "team", [{"a.py": "a = 1\n", "model.py": pointer}])
    git(repo, "submodule", "--quiet", "add", str(inner), "sub")
    (repo / "link.py").symlink_to("a.py")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "more")
    found = collected(repo)
    assert found.paths() == [".gitmodules", "a.py"]
    assert found.skipped == {"sub": "submodule", "link.py": "symlink", "model.py": "lfs_pointer"}


def test_include_and_exclude(tmp_path, collected):
    files = {"src/a.py": "a\n", "src/gen/b.py": "b\n", "docs/c.md": "c\n"}
    repo = make_repository(tmp_path / "team", [files])
    found = collected(repo, include=("src/",), exclude=("gen/",))
    assert found.paths() == ["src/a.py"]
    assert found.skipped == {"src/gen/b.py": "excluded", "docs/c.md": "excluded"}


def test_an_object_that_is_missing_is_listed(tmp_path, collected):
    repo = make_repository(tmp_path / "team", [{"a.py": "a = 1\n", "b.py": "b = 1\n"}])
    oid = git(repo, "rev-parse", "HEAD:b.py")
    (repo / ".git" / "objects" / oid[:2] / oid[2:]).unlink()
    found = collected(repo)
    assert found.paths() == ["a.py"]
    assert found.skipped == {"b.py": "missing"}


def test_a_commit_that_is_missing_is_explained(tmp_path, collected):
    repo = make_repository(tmp_path / "team", TEN)
    oid = git(repo, "rev-parse", "HEAD~3")
    (repo / ".git" / "objects" / oid[:2] / oid[2:]).unlink()
    with pytest.raises(SourceError, match=r"/team: git rev-list failed: .*" + oid) as error:
        collected(repo)
    assert "git fsck" in error.value.advice


def test_other_branches_by_ref_and_a_helpful_error(tmp_path, collected):
    repo = make_repository(tmp_path / "team", TEN[:2])
    git(repo, "branch", "develop", "HEAD~1")
    assert collected(repo, ref="develop").paths() == ["a.py", "f0.py"]
    with pytest.raises(SourceError, match="not a branch, tag or commit") as error:
        collected(repo, ref="develpo")
    assert "develop" in error.value.advice


def test_empty_repository_is_explained(tmp_path, collected):
    repo = tmp_path / "team"
    repo.mkdir()
    git(repo, "init", "-q")
    with pytest.raises(SourceError, match="no commit yet"):
        collected(repo)


@pytest.mark.parametrize(
    "encoding, message, text",
    [
        ("idna", "Say more", "Say more"),
        ("undefined", "Say more", "Say more"),
        ("utf-7", "Say +2AA- more", "Say ? more"),  # half of a surrogate pair
    ],
)
def test_a_message_in_an_encoding_that_gives_up_is_read(
    tmp_path, collected, encoding, message, text
):
    repo = make_repository(tmp_path / "team", [{"a.py": "a = 1\n"}])
    (repo / "a.py").write_text("a = 2\n")
    git(repo, "-c", f"i18n.commitEncoding={encoding}", "commit", "-q", "-a", "-m", message)
    found = collected(repo, commits=5)
    (row,) = read_rows(found.artifact / "commits.parquet")
    assert row["message"].strip() == text


def test_row_groups_stay_small(tmp_path, collected):
    import pyarrow.parquet as pq

    big = {f"f{n}.py": os.urandom(900_000) for n in range(20)}
    found = collected(make_repository(tmp_path / "team", [big]))
    table = pq.ParquetFile(found.artifact / "files.parquet")
    assert table.num_row_groups >= 2
    sizes = [table.metadata.row_group(n).total_byte_size for n in range(table.num_row_groups)]
    assert max(sizes) < 16_000_000


def _worktree_that_was_moved(top):
    (top / ".git").write_text("gitdir: /nowhere/at/all\n")


def _without_head(top):
    (top / ".git" / "objects").mkdir(parents=True)
    (top / ".git" / "refs").mkdir()


@pytest.mark.parametrize("damage", [_worktree_that_was_moved, _without_head])
def test_a_damaged_repository_is_no_plain_folder(tmp_path, collected, damage):
    top = tmp_path / "tool"
    (top / "lib").mkdir(parents=True)
    (top / "lib" / "a.py").write_text("a = 1\n")
    damage(top)
    with pytest.raises(
        SourceError, match=r"tool has a \.git that is no usable repository"
    ) as error:
        collected(top)
    assert "delete it" in error.value.advice
    assert collected(top / "lib").paths() == ["a.py"]
