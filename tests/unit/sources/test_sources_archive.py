"""Honest archives: every format, one common folder, and .gitignore."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from codetune.errors import SourceError

FILES = {"tool-1.0/a.py": b"a = 1\n", "tool-1.0/lib/b.py": b"b = 1\n"}


def pack(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    kind = path.name.rpartition(".")[2]
    with tarfile.open(path, "w" if kind == "tar" else f"w:{kind}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_every_format_gives_the_same_files(tmp_path, collected, name):
    found = collected(pack(tmp_path / name, FILES))
    assert found.paths() == ["a.py", "lib/b.py"]
    assert found.content("lib/b.py") == b"b = 1\n"
    assert found.artifact.summary["repository"] == "tool-1.0"


def test_without_a_common_folder_the_names_stay(tmp_path, collected):
    found = collected(pack(tmp_path / "tool.zip", {"a.py": b"a\n", "lib/b.py": b"b\n"}))
    assert found.paths() == ["a.py", "lib/b.py"]
    assert found.artifact.summary["repository"] == "tool"


def test_gitignore_inside_an_archive(tmp_path, collected):
    files = {**FILES, "tool-1.0/.gitignore": b"*.log\n", "tool-1.0/x.log": b"x\n"}
    found = collected(pack(tmp_path / "x.tar.gz", files))
    assert found.skipped == {"x.log": "ignored"}


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_what_a_version_store_keeps_for_itself_is_left_out(tmp_path, collected, name):
    own = (".git/config", "lib/.git", "lib/deep/.hg/hgrc", ".svn/entries", ".bzr/README")
    files = {**FILES, **{f"tool-1.0/{path}": b"[remote]\n" for path in own}}
    files["./tool-1.0/lib/.github/ci.yml"] = b"on: push\n"
    found = collected(pack(tmp_path / name, files))
    assert found.paths() == ["a.py", "lib/b.py", "lib/.github/ci.yml"]
    assert found.skipped == {}


def test_large_members_are_listed_and_not_read(tmp_path, collected):
    found = collected(
        pack(tmp_path / "x.zip", {**FILES, "tool-1.0/c.py": b"c" * 2000}), largest_file=1000
    )
    assert found.skipped == {"c.py": "too_large"}


def test_an_empty_archive_is_explained(tmp_path, collected):
    with pytest.raises(SourceError, match="empty archive"):
        collected(pack(tmp_path / "x.zip", {}))


def test_a_member_with_a_wrong_checksum_is_explained(tmp_path, collected):
    path = pack(tmp_path / "x.tar", FILES).with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.py", "good = 1\n")
    path.write_bytes(path.read_bytes().replace(b"good", b"evil"))
    with pytest.raises(SourceError, match=r"Bad CRC-32 .*a\.py"):
        collected(path)
