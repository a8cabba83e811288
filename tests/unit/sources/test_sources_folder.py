"""Plain folders: .gitignore, links, and files that are none."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codetune.artifacts import digest_of
from codetune.errors import ConfigError, SourceError
from codetune.progress import Progress, Quiet
from codetune.sources import folder
from codetune.sources.collect import collect
from codetune.sources.config import SourceOptions
from codetune.sources.ignore import Ignored
from tests.unit.sources.repositories import git


def write(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)


def test_a_folder_is_read_without_history(tmp_path, collected):
    write(tmp_path / "tool", {"b.py": "b = 1\n", "lib/a.py": "a = 1\n"})
    found = collected(tmp_path / "tool")
    assert found.paths() == ["b.py", "lib/a.py"]
    assert all(row["in_past"] and row["previous_path"] == row["path"] for row in found.rows)
    assert found.artifact.summary["repository"] == "tool"
    assert found.artifact.summary["commit"] is None


def test_gitignore_files_are_obeyed_where_they_stand(tmp_path, collected):
    files = {
        ".gitignore": "*.log\nbuild/\n/only_top.py\n",
        "a.log": "x",
        "build/a.py": "x",
        "only_top.py": "x",
        "lib/only_top.py": "x",
        "lib/.gitignore": "!keep.log\nsecret_*.py\n",
        "lib/keep.log": "x",
        "lib/other.log": "x",
        "lib/secret_a.py": "x",
        "lib/deep/secret_b.py": "x",
        "secret_c.py": "x",
    }
    write(tmp_path / "tool", files)
    found = collected(tmp_path / "tool")
    assert found.paths() == [
        ".gitignore", "lib/.gitignore", "lib/keep.log", "lib/only_top.py", "secret_c.py",
    ]  # fmt: skip
    assert set(found.skipped.values()) == {"ignored"}
    assert "build/" in found.skipped


def test_a_name_that_is_no_text_can_be_told_of(tmp_path):
    class Noted(Quiet):
        def finish(self, task):
            self.note = task.note

    sink = Noted()
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / os.fsdecode(b"caf\xe9.py")).write_text("x = 1\n")
    collect(str(tmp_path / "tool"), SourceOptions(), tmp_path / "made", Progress(sink))
    assert sink.note == "caf\ufffd.py"


def test_a_folder_whose_path_is_no_text_is_read(tmp_path, collected):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder, {"a.py": "x = 1\n"})
    found = collected(folder)
    assert found.paths() == ["a.py"]
    repository = json.loads((found.artifact / "repository.json").read_text())
    assert repository["name"] == "caf\ufffd"
    assert digest_of({"source": str(folder)}) != digest_of({"source": str(tmp_path / "caf")})


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_choice_that_is_no_pattern_is_refused(tmp_path, collected, option):
    write(tmp_path / "tool", {"a.py": "x = 1\n"})
    with pytest.raises(ConfigError, match=rf"sources\.{option}: '!' is no pattern"):
        collected(tmp_path / "tool", **{option: ("*.py", "!")})


NAMES = st.sampled_from(["a", "b", "c.py", "d.log"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATTERNS = st.lists(
    st.sampled_from(
        ["*.log", "!d.log", "a/", "/a", "b/**", "a/*", "!a/b", "**/c.py", "c.*", "# x", "!", "b\\"]
    ),
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(top=PATTERNS, nested=PATTERNS, paths=st.sets(PATHS, min_size=1, max_size=5))
@example(top=["**/c.py", "!d.log"], nested=[], paths={"d.log/c.py/a"})
def test_ignoring_agrees_with_git(tmp_path_factory, top, nested, paths):
    root = tmp_path_factory.mktemp("agree")
    git(root, "init", "-q")
    (root / ".gitignore").write_text("\n".join(top) + "\n")
    (root / "a").mkdir()
    (root / "a" / ".gitignore").write_text("\n".join(nested) + "\n")
    ignored = Ignored()
    ignored.learn("", "\n".join(top))
    if "a/" not in ignored:
        ignored.learn("a/", "\n".join(nested))
    usable = [path for path in sorted(paths) if not (root / path).exists()]
    import subprocess

    answer = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=root, input="\n".join(usable), capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert {path for path in usable if path in ignored} == set(answer)


def test_links_are_listed_and_never_followed(tmp_path, collected):
    write(tmp_path, {"outside/secret.py": "secret = 1\n", "tool/a.py": "a = 1\n"})
    (tmp_path / "tool" / "file.py").symlink_to(tmp_path / "outside" / "secret.py")
    (tmp_path / "tool" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "tool" / "loop").symlink_to(".")
    found = collected(tmp_path / "tool")
    assert found.paths() == ["a.py"]
    assert found.skipped == {"file.py": "symlink", "folder": "symlink", "loop": "symlink"}


def test_what_is_gone_while_the_folder_is_read_is_not_there(tmp_path):
    write(tmp_path, {"a.py": "a = 1\n", "b.py": "b = 1\n", "c/d.py": "d = 1\n", "f.py": "f\n"})
    (tmp_path / "e.py").symlink_to("a.py")
    walk = folder.walk(tmp_path)
    assert next(walk).path == "a.py"  # the folder has been listed
    (tmp_path / "b.py").unlink()
    (tmp_path / "c" / "d.py").unlink()
    (tmp_path / "c").rmdir()
    (tmp_path / "e.py").unlink()
    assert [found.path for found in walk] == ["f.py"]
    with pytest.raises(SourceError, match="c cannot be read"):
        list(folder.walk(tmp_path / "c"))


def test_a_pipe_does_not_stop_the_reading(tmp_path, collected):
    write(tmp_path / "tool", {"a.py": "a = 1\n"})
    os.mkfifo(tmp_path / "tool" / "pipe.py")
    found = collected(tmp_path / "tool")
    assert found.skipped == {"pipe.py": "special"}


def test_same_content_is_a_skip_and_other_content_is_not(tmp_path, collected):
    write(tmp_path / "tool", {"a.py": "a = 1\n"})
    first = collected(tmp_path / "tool").artifact.path
    os.utime(tmp_path / "tool" / "a.py", (1, 1))
    assert collected(tmp_path / "tool").artifact.path == first
    write(tmp_path / "tool", {"a.py": "a = 2\n"})
    assert collected(tmp_path / "tool").artifact.path != first


def test_a_two_gigabyte_file_is_not_read(tmp_path, collected):
    write(tmp_path / "tool", {"a.py": "a = 1\n"})
    with (tmp_path / "tool" / "big.py").open("wb") as file:
        file.truncate(2_000_000_000)  # sparse: takes no space
    assert collected(tmp_path / "tool").skipped == {"big.py": "too_large"}


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_what_is_no_source_is_explained(tmp_path, collected, kind):
    path = tmp_path / "thing"
    if kind == "file":
        path.write_text("just text")
    elif kind == "empty":
        path.mkdir()
    with pytest.raises(SourceError) as error:
        collected(path)
    assert error.value.advice
    assert "thing" in error.value.message


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source_is_not_the_current_folder(tmp_path, monkeypatch, source):
    write(tmp_path, {"a.py": "a = 1\n"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="The source is empty") as error:
        collect(source, SourceOptions(), tmp_path / "made", Progress(Quiet()))
    assert '"."' in error.value.advice
