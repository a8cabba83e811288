"""A stage's folder is whole or not there; a re-run finds what is done."""

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from codetune.artifacts import digest_of, open_artifact, run_stage
from codetune.errors import ArtifactError


def write_answer(folder: Path) -> dict[str, int]:
    (folder / "answer.txt").write_text("42")
    return {"answer": 42}


def test_finished_stage_is_returned_without_running_again(tmp_path: Path) -> None:
    first = run_stage("count", tmp_path, {"n": 1}, {"source": "a"}, write_answer)

    def never(folder: Path) -> dict[str, int]:
        raise AssertionError("ran again")

    second = run_stage("count", tmp_path, {"n": 1}, {"source": "a"}, never)
    assert second == first
    assert (second / "answer.txt").read_text() == "42"
    assert second.summary == {"answer": 42}


@pytest.mark.parametrize(
    ("config", "inputs"), [({"n": 2}, {"source": "a"}), ({"n": 1}, {"b": "a"})]
)
def test_other_options_or_inputs_are_another_artifact(
    tmp_path: Path, config: dict[str, int], inputs: dict[str, str]
) -> None:
    first = run_stage("count", tmp_path, {"n": 1}, {"source": "a"}, write_answer)
    assert run_stage("count", tmp_path, config, inputs, write_answer).path != first.path


def test_a_failed_stage_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, int]:
        (folder / "half").write_text("x")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run_stage("count", tmp_path, {}, {}, fail)
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []

    def check_empty(folder: Path) -> dict[str, int]:
        assert list(folder.iterdir()) == []
        return {}

    run_stage("count", tmp_path, {}, {}, check_empty)


def test_a_resumable_stage_is_given_what_was_left(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, int]:
        (folder / "checkpoint").write_text("3")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run_stage("train", tmp_path, {}, {}, fail, resumable=True)

    def resume(folder: Path) -> dict[str, int]:
        return {"from": int((folder / "checkpoint").read_text())}

    assert run_stage("train", tmp_path, {}, {}, resume, resumable=True).summary == {"from": 3}


def test_a_full_disk_is_named_and_leaves_nothing_finished(tmp_path: Path) -> None:
    def fill(folder: Path) -> dict[str, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ArtifactError, match="is full") as caught:
        run_stage("count", tmp_path, {}, {}, fill)
    assert "CODETUNE_HOME" in str(caught.value)


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    def grow(folder: Path) -> dict[str, int]:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    with pytest.raises(ArtifactError, match="File too large") as caught:
        run_stage("count", tmp_path, {}, {}, grow)
    assert "ulimit -f" in str(caught.value)


def test_a_home_that_is_a_file_or_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = {tmp_path / "file" / "runs": "Not a directory", tmp_path / "file": "File exists"}
    if os.path.isdir("/proc"):
        places[Path("/proc/none/runs")] = "No such file or directory"
    for folder, reason in places.items():
        with pytest.raises(ArtifactError, match=f"{folder} cannot be made: {reason}") as caught:
            run_stage("count", folder, {}, {}, write_answer)
        assert "CODETUNE_HOME" in str(caught.value)


def test_a_missing_file_within_a_stage_is_not_blamed_on_the_home(tmp_path: Path) -> None:
    def read(folder: Path) -> dict[str, str]:
        return {"text": (folder / "none").read_text()}

    with pytest.raises(FileNotFoundError):
        run_stage("count", tmp_path, {}, {}, read)


def test_a_folder_without_manifest_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a finished stage"):
        open_artifact(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="not a finished stage"):
        open_artifact(tmp_path)


def _slow_stage(folder: Path) -> dict[str, int]:
    time.sleep(0.3)
    (folder / "pid").write_text(str(os.getpid()))
    return {}


def _run_slow(folder: Path) -> None:
    run_stage("slow", folder, {}, {}, _slow_stage)


def test_two_processes_make_one_artifact(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_run_slow, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    finished = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert len(finished) == 1
    assert json.loads((finished[0] / "manifest.json").read_text())["stage"] == "slow"


def test_digest_ignores_key_order_but_not_values() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
