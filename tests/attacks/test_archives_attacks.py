"""Archives that climb, unpack to terabytes, or hold things that are no files."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from codetune.errors import SourceError, UnsafeSourceError
from codetune.progress import Progress
from codetune.sources.collect import collect
from codetune.sources.config import SourceOptions
from codetune.tables import read_rows

CLIMBING = [
    "../evil.py",
    "/etc/evil.py",
    "a/../../evil.py",
    "..\\evil.py",
    "\\\\server\\share\\evil.py",
    "C:\\evil.py",
    "C:/evil.py",
    "a/..",
]


def read(archive: Path, tmp_path: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    artifact = collect(str(archive), SourceOptions(), tmp_path / "out", Progress())
    files = {row["path"]: row["content"] for row in read_rows(artifact / "files.parquet")}
    skipped = {row["path"]: row["reason"] for row in read_rows(artifact / "skipped.parquet")}
    return files, skipped


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("name", CLIMBING)
def test_tar_slip(tmp_path, name):
    archive = tar_of(
        tmp_path / "x.tar.gz", [(member(name), b"evil = 1\n"), (member("ok/a.py"), b"a = 1\n")]
    )
    files, skipped = read(archive, tmp_path)
    assert files == {"a.py": b"a = 1\n"}
    assert list(skipped.values()) == ["unsafe_path"]
    assert not list(tmp_path.rglob("evil.py"))


@pytest.mark.parametrize("name", CLIMBING)
def test_zip_slip(tmp_path, name):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("ok/a.py"), "a = 1\n")
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        archive.writestr(info, "evil = 1\n")
    files, skipped = read(path, tmp_path)
    assert files == {"a.py": b"a = 1\n"}
    assert list(skipped.values()) == ["unsafe_path"]
    assert not list(tmp_path.rglob("evil.py"))


def test_links_devices_and_pipes_of_a_tar(tmp_path):
    kinds = {
        "soft": (tarfile.SYMTYPE, "symlink"),
        "hard": (tarfile.LNKTYPE, "hard_link"),
        "char": (tarfile.CHRTYPE, "special"),
        "block": (tarfile.BLKTYPE, "special"),
        "pipe": (tarfile.FIFOTYPE, "special"),
    }
    members = [(member(name, kind, "/etc/passwd"), b"") for name, (kind, _) in kinds.items()]
    archive = tar_of(tmp_path / "x.tar", [*members, (member("a.py"), b"a = 1\n")], "w")
    files, skipped = read(archive, tmp_path)
    assert files == {"a.py": b"a = 1\n"}
    assert skipped == {name: reason for name, (_, reason) in kinds.items()}


def test_a_hard_link_to_a_member_does_not_read_it_twice_under_another_name(tmp_path):
    link = member("innocent.py", tarfile.LNKTYPE, "../../etc/shadow")
    archive = tar_of(tmp_path / "x.tar.gz", [(member("a.py"), b"a = 1\n"), (link, b"")])
    assert read(archive, tmp_path)[1] == {"innocent.py": "hard_link"}


def test_links_and_devices_of_a_zip(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in {
            "soft": stat.S_IFLNK,
            "pipe": stat.S_IFIFO,
            "char": stat.S_IFCHR,
        }.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
        archive.writestr("a.py", "a = 1\n")
    files, skipped = read(path, tmp_path)
    assert files == {"a.py": b"a = 1\n"}
    assert skipped == {"soft": "symlink", "pipe": "special", "char": "special"}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_bomb_is_refused_quickly(tmp_path, pack):
    """One file of 2 GB of zeros: 2 MB as gzip, a few kB as bzip2 and xz."""
    head = member("zeros.py")
    head.size = 2_000_000_000
    path = tmp_path / "bomb.tar"
    # The packed form of 64 MB, repeated: both formats allow members one after the other.
    block = pack(bytes(64_000_000), 1) if pack is not lzma.compress else pack(bytes(64_000_000))
    path.write_bytes(pack(head.tobuf()) + block * 32)
    start = time.monotonic()
    with pytest.raises(UnsafeSourceError, match="decompression bomb"):
        read(path, tmp_path)
    assert time.monotonic() - start < 60


def test_a_zip_bomb_is_not_inflated(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.py", bytes(300_000_000))
        archive.writestr("a.py", "a = 1\n")
    assert path.stat().st_size < 400_000
    files, skipped = read(path, tmp_path)
    assert list(files) == ["a.py"]
    assert skipped == {"zeros.py": "too_large"}


def test_many_small_zip_members_are_counted_together(tmp_path):
    """Every member is below the size limit; together they are a bomb."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(300):
            archive.writestr(f"{number}.py", bytes(999_000))
    with pytest.raises(UnsafeSourceError, match="decompression bomb"):
        read(path, tmp_path)


def test_a_zip_that_lies_about_sizes_fills_no_memory(tmp_path):
    """The table of contents says 5 bytes, the data inflates to 500 MB."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packed.compress(bytes(500_000_000)) + packed.flush()
    name = b"small.py"
    sizes = (8, 0, 0, 0, len(data), 5, len(name), 0)  # deflated; time, date, CRC; then the lie
    local = struct.pack("<4s2H3H3L2H", b"PK\x03\x04", 20, 0, *sizes)
    entry = struct.pack("<4s3H3H3L5H2L", b"PK\x01\x02", 20, 20, 0, *sizes, 0, 0, 0, 0, 0)
    start = len(local) + len(name) + len(data)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry) + len(name), start, 0)
    path = tmp_path / "liar.zip"
    path.write_bytes(local + name + data + entry + name + end)
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))\n"
        "from pathlib import Path\n"
        "from codetune.sources.archive import members\n"
        "from codetune.errors import SourceError\n"
        "try:\n"
        "    print([len(read(1_000_000)) for _, read in members(Path(sys.argv[1]))])\n"
        "except SourceError as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be read as an archive: Bad CRC-32" in done.stdout


def test_a_table_of_contents_that_would_fill_the_memory(tmp_path):
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0x7FFFFFFF, 0, 0)
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\x03\x04" + bytes(100) + end)
    with pytest.raises(UnsafeSourceError, match="more members"):
        read(path, tmp_path)


def test_a_repeated_name_cannot_replace_a_file(tmp_path):
    archive = tar_of(
        tmp_path / "x.tar.gz", [(member("a.py"), b"good = 1\n"), (member("./a.py"), b"evil = 1\n")]
    )
    files, skipped = read(archive, tmp_path)
    assert files == {"a.py": b"good = 1\n"}
    assert skipped == {"a.py": "repeated_name"}


def test_an_encrypted_member_is_listed(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.py", "a = 1\n")
        archive.writestr("secret.py", "s = 1\n")
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02")  # the second entry of the table of contents
    raw[at + 8] |= 1
    path.write_bytes(raw)
    files, skipped = read(path, tmp_path)
    assert list(files) == ["a.py"]
    assert skipped == {"secret.py": "encrypted"}


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.xz", "x.tar.bz2", "x.tar"])
def test_damaged_archives_are_explained_and_leave_nothing(tmp_path, name):
    start = {"zip": b"PK\x03\x04", "gz": b"\x1f\x8b", "xz": b"\xfd7zXZ\x00", "bz2": b"BZh"}
    path = tmp_path / name
    path.write_bytes(start.get(name.rpartition(".")[2], bytes(257) + b"ustar") + os.urandom(4000))
    with pytest.raises(SourceError, match="cannot be read as an archive") as error:
        read(path, tmp_path)
    assert error.value.advice
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_reading_an_archive_writes_nothing_outside_the_artifact(tmp_path):
    archive = tar_of(tmp_path / "x.tar.gz", [(member("top/a.py"), b"a = 1\n")])
    before = set(tmp_path.rglob("*"))
    read(archive, tmp_path)
    new = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert new == {"out"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4_000_000  # kB
