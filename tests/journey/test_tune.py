"""The whole job on a real small repository: one command, a better model, a server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.clock import AT_ONCE
from tests.journey.team import INTERRUPTED, QUICK, Codetune, make_repository

Home = tuple[Path, dict[str, Any]]


def test_the_json_has_every_promised_part(tuned_home: Home) -> None:
    _, result = tuned_home
    assert result["model"] == "warehouse-rules:1"
    assert Path(result["report"]).is_file()
    corpus, dataset, training = result["corpus"], result["dataset"], result["training"]
    assert corpus["files"] >= corpus["kept"] > 30
    assert corpus["files"] == corpus["kept"] + sum(corpus["dropped"].values())
    assert corpus["bytes"] > 10_000
    assert dataset["examples"]["ntp"] > 0
    assert dataset["examples"]["fim"] > 0
    assert dataset["tokens"] > 5_000
    assert dataset["heldout_files"] > 0
    assert dataset["leaked"] == 0
    assert training["method"] == "lora"
    assert training["tokens"] > 5_000
    assert training["seconds"] > 0
    assert training["tokens_per_second"] > 0
    assert 0 <= training["padding_share"] < 0.5
    assert training["peak_memory_bytes"] > 50_000_000
    assert training["loss"]["last"] < training["loss"]["first"]
    assert training["validation"]["best"] < training["validation"]["first"]
    for side in ("base", "tuned"):
        score = result["scorecard"][side]
        assert set(score["n"])
        for field in (
            "bits_per_byte",
            "fim_exact_match",
            "fim_edit_similarity",
            "general_bits_per_byte",
        ):
            assert score[field]["low"] <= score[field]["value"] <= score[field]["high"]


def test_the_tuned_model_knows_the_repository_better(tuned_home: Home) -> None:
    card = tuned_home[1]["scorecard"]
    assert card["tuned"]["bits_per_byte"]["high"] < card["base"]["bits_per_byte"]["low"]


def test_a_second_run_does_nothing_again(
    tuned_home: Home, repository: Path, codetune: Codetune
) -> None:
    home, first = tuned_home
    start = time.monotonic()
    again = codetune("tune", str(repository), "--json", *QUICK, home=home)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == first
    assert time.monotonic() - start < 30


def test_models_show_and_report_know_the_result(tuned_home: Home, codetune: Codetune) -> None:
    home, result = tuned_home
    listed = codetune("models", "--json", home=home)
    ids = [card["id"] for card in json.loads(listed.stdout)["models"]]
    assert result["model"] in ids
    assert any("nano" in name for name in ids)
    shown = json.loads(codetune("show", "warehouse-rules", "--json", home=home).stdout)
    assert shown["metrics"]["tuned"] == result["scorecard"]["tuned"]
    assert shown["commits"]
    page = Path(codetune("report", "warehouse-rules", home=home).stdout.strip())
    text = page.read_text()
    assert "warehouse-rules" in text
    assert "http://" not in text.replace("http://127.0.0.1", "").replace("http://www.w3.org", "")
    unknown = codetune("show", "warehouse-rule", home=home)
    assert unknown.returncode == 2
    assert "warehouse-rules" in unknown.stderr


def test_complete_prints_one_completion(
    tuned_home: Home, repository: Path, codetune: Codetune
) -> None:
    home, result = tuned_home
    file = next((repository / "warehouse").glob("*.py"))
    answer = codetune(
        "complete", str(file), "--line", "14", "--model", result["model"], "--json", home=home
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["model"] == result["model"]


def test_build_alone_prints_corpus_and_dataset(
    tuned_home: Home, repository: Path, codetune: Codetune
) -> None:
    home, first = tuned_home
    built = json.loads(codetune("build", str(repository), "--json", home=home).stdout)
    assert built["corpus"] == first["corpus"]
    assert built["dataset"] == first["dataset"]


def test_these_tests_are_offline(tmp_path: Path, codetune: Codetune) -> None:
    """The guard works: a base that would have to be fetched is refused, not fetched."""
    result = codetune("tune", ".", "--base", "owner/some-model", home=tmp_path)
    assert result.returncode == 2
    assert "owner/some-model" in result.stderr
    assert "offline: socket" in result.stderr


@pytest.mark.slow
def test_ctrl_c_ends_at_once_and_the_next_run_goes_on(tmp_path: Path, codetune: Codetune) -> None:
    source = make_repository(tmp_path / "repo", commits=8)
    home = tmp_path / "home"
    options = ["tune", str(source), "--json", *INTERRUPTED]
    process = subprocess.Popen(
        [sys.executable, "-m", "codetune", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CODETUNE_HOME": str(home)},
    )
    deadline = time.monotonic() + 120
    while steps_done(home) < 2:  # the first one's checkpoint is on disk
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    output, errors = process.communicate(timeout=20)
    assert time.monotonic() - start < AT_ONCE
    assert process.returncode == 130
    assert output == ""
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    finished = codetune(*options, home=home)
    assert finished.returncode == 0, finished.stderr
    training = json.loads(finished.stdout)["training"]
    assert training["steps"] > training["resumed_from"][0] >= 1
    assert not list(home.glob("projects/*/*/.*.partial"))


def steps_done(home: Path) -> int:
    """Optimizer steps of the run that is under way."""
    return sum(
        metrics.read_text().count('"kind": "train"')
        for metrics in home.glob("projects/*/runs/.*.partial/metrics.jsonl")
    )


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_folder_and_an_archive_go_the_same_way(
    kind: str, repository: Path, tmp_path: Path, codetune: Codetune
) -> None:
    source = tmp_path / "plain"
    shutil.copytree(repository / "warehouse", source / "warehouse")
    if kind == "archive":
        source = Path(shutil.make_archive(str(tmp_path / "code"), "gztar", source))
    result = codetune("build", str(source), "--json", home=tmp_path / "home")
    assert result.returncode == 0, result.stderr
    built = json.loads(result.stdout)
    assert built["dataset"]["leaked"] == 0
    assert built["dataset"]["heldout_files"] > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "no files"),
        (lambda folder: folder.write_text("not a repository"), "archive"),
        (lambda folder: (folder.mkdir(), (folder / "a.bin").write_bytes(b"\0" * 999)), "left"),
    ],
)
def test_a_source_without_code_is_refused(
    make: Any, message: str, tmp_path: Path, codetune: Codetune
) -> None:
    make(tmp_path / "source")
    result = codetune("tune", str(tmp_path / "source"), home=tmp_path / "home")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert str(tmp_path / "source") in result.stderr or message in result.stderr


def test_a_port_in_use_is_refused(tmp_path: Path, codetune: Codetune) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = codetune("serve", "--port", str(port), home=tmp_path)
    assert result.returncode == 2
    assert str(port) in result.stderr
    assert "Traceback" not in result.stderr
