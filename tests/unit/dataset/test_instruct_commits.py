"""From a repository's history to instructions: collect, clean, build, on real git."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import Artifact
from codetune.corpus.changes import told
from codetune.corpus.clean import clean
from codetune.corpus.config import CorpusOptions
from codetune.dataset.instruct.changes import readable
from codetune.dataset.instruct.config import InstructionOptions
from codetune.dataset.instruct.make import InstructionMaker, read_pairs
from codetune.dataset.instruct.pairs import Pair
from codetune.progress import Progress
from codetune.sources.collect import collect
from codetune.sources.config import SourceOptions
from codetune.tables import read_rows
from codetune.workers import Workers
from tests.unit.serving.tiny_models import make_base
from tests.unit.sources.repositories import git

BASE = "".join(f"def step_{n}(order):\n    return order.apply({n})\n\n\n" for n in range(12))


def commit(folder: Path, message: str, author: str = "Ada <ada@example.org>", **files: str) -> str:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message, "--author", author, "--allow-empty")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A history with a good commit, and everything that is to be passed over."""
    folder = tmp_path / "shop"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder, "Start", shop=BASE, other="x = 1\n" * 3)
    ids = {}
    text = BASE.replace("order.apply(3)", "order.apply(3) or None")
    ids["good"] = commit(
        folder,
        "Give None for an order that cannot be applied in step 3 (#12)\n\n"
        "The callers compare with None, and an empty order is no result for them.\n\n"
        "Fixes #7\nSigned-off-by: Ada <ada@example.org>\nCo-authored-by: Bob <bob@example.org>",
        shop=text,
    )
    text = text.replace("order.apply(5)", "order.apply(5, strict=True)")
    ids["bot"] = commit(
        folder, "Make step five of the order strict", "renovate[bot] <b@example.org>", shop=text
    )
    text = text.replace("order.apply(6)", "order.apply(6, strict=True)")
    ids["says nothing"] = commit(folder, "wip", shop=text)
    ids["new file"] = commit(folder, "Add a module for all the taxes", taxes="RATE = 0.2\n")
    many = {f"part_{n}": f"PART = {n}\n" for n in range(6)}
    commit(folder, "Add many parts of the shop", **many)
    ids["many files"] = commit(
        folder,
        "Change many parts of the shop at once",
        **{n: t + "MORE = 1\n" for n, t in many.items()},
    )
    git(folder, "checkout", "-q", "-b", "side")
    commit(folder, "Say on the side what other is", other="x = 2\n" * 3)
    git(folder, "checkout", "-q", "main")
    secret = "AKIA" + "Q7ZP2MNB4XKD5RTW"
    text = text.replace("order.apply(7)", f'order.apply(7, key="{secret}")')
    ids["secret"] = commit(folder, f"Give step seven the key that it needs: {secret}", shop=text)
    git(folder, "merge", "-q", "--no-ff", "-m", "Merge the side into the main line of work", "side")
    ids["merge"] = git(folder, "rev-parse", "HEAD")
    for n in range(8, 11):
        text = text.replace(f"order.apply({n})", f"order.apply({n}, late=True)")
        ids[f"future {n}"] = commit(folder, f"Let step {n} of the order come late", shop=text)
    return folder, ids


def collected(folder: Path, out: Path, **options: Any) -> Artifact:
    made = SourceOptions.load({"cutoff": 0.25, "commits": 100} | options, "test")
    return collect(str(folder), made, out / "sources", Progress())


def changed(folder: Path, out: Path, **options: Any) -> dict[str, dict[str, Any]]:
    table = collected(folder, out, **options) / "commits.parquet"
    return {f"{row['commit']} {row['path']}": row for row in read_rows(table)}


def test_small_changes_of_the_past_are_collected(
    repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, ids = repository
    rows = changed(folder, tmp_path)
    found = {key.split()[0] for key in rows}
    assert {ids["good"], ids["says nothing"], ids["secret"]} <= found
    passed_over = ("bot", "new file", "many files", "merge")
    assert not found & {ids[name] for name in passed_over}
    assert not found & {ids[name] for name in ids if name.startswith("future")}
    good = rows[f"{ids['good']} shop.py"]
    assert b"or None" in good["after"]
    assert b"or None" not in good["before"]
    assert good["files"] == 1


def test_limits_and_choices_hold_for_commits_too(
    repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, ids = repository
    assert len(changed(folder, tmp_path, commits=2)) == 2
    assert not changed(folder, tmp_path, exclude=("*.py",), include=())
    assert not (collected(folder, tmp_path, commits=0) / "commits.parquet").exists()
    assert not (collected(folder, tmp_path, commits=None) / "commits.parquet").exists()
    whole = changed(folder, tmp_path, cutoff=None)  # without a future, all of it is past
    assert f"{ids['future 10']} shop.py" in whole


def instructed(folder: Path, out: Path) -> tuple[list[Pair], Any, Artifact]:
    cleaned = clean(collected(folder, out), CorpusOptions(), out / "corpus", Progress())
    maker = InstructionMaker(
        lambda: iter([]), 0, None, InstructionOptions(), Workers(1), cleaned / "commits.parquet"
    )
    counts = maker.write(out)
    return list(read_pairs(out / "sft.jsonl")), counts, cleaned


def test_a_message_asks_for_a_diff_that_git_applies(
    repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, ids = repository
    pairs, counts, _ = instructed(folder, tmp_path)
    assert counts.dropped["message_says_nothing"] == 1
    good = {pair.kind: pair for pair in pairs if pair.commit == ids["good"]}
    asked = good["commit"]
    assert "Give None for an order that cannot be applied" in asked.instruction
    assert "callers compare with None" in asked.instruction
    for gone in ("#12", "#7", "Fixes", "Ada", "Bob", "example.org", "Signed"):
        assert gone not in asked.instruction
    assert asked.input == BASE
    git(folder, "checkout", "-q", f"{ids['good']}~1")
    subprocess.run(
        ["git", "apply", "-"], cwd=folder, input=asked.output + "\n", text=True, check=True
    )
    assert git(folder, "diff", "--stat", ids["good"]) == ""
    told_back = good["explain"]
    assert told_back.input == asked.output
    assert told_back.output.startswith("Give None for an order")
    assert told_back.output.endswith("no result for them.")


def test_secrets_of_the_past_are_not_learned(
    repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, ids = repository
    pairs, counts, cleaned = instructed(folder, tmp_path)
    assert ids["secret"] not in {pair.commit for pair in pairs}
    assert counts.dropped["redacted"] == 2
    for file in ("sft.jsonl", "sft_readable.json"):
        assert "Q7ZP2MNB4XKD5RTW" not in (tmp_path / file).read_text()
    rows = list(read_rows(cleaned / "commits.parquet"))
    assert not any(
        "Q7ZP2MNB4XKD5RTW" in row[name] for row in rows for name in ("before", "after", "message")
    )
    assert cleaned.summary["changes"]["kept"] == len(rows)


def test_messages_lose_people_and_numbers() -> None:
    message = (
        "Fix it (#3)\n\nCloses #4, refs #5.\nReviewed-by: Al <al@example.org>\nSee a@example.org"
    )
    assert "example.org" not in told(message)
    assert "Reviewed" not in told(message)
    assert readable("Fix the parser (#3)\n\nCloses #4") == "Fix the parser"
    assert readable("Number 3 is not #odd, nor is it 4.") == "Number 3 is not #odd, nor is it 4."
    assert readable("Mend it, closes org/repo#12") == "Mend it"


def test_a_shallow_copy_gives_what_it_has(
    repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, _ = repository
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", "--depth=3", f"file://{folder}", str(copy))
    assert len(changed(copy, tmp_path, cutoff=None)) <= 2


def test_the_command_prints_the_counts(
    repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """`codetune build SOURCE --data ntp,fim,sft --json`, as a user would call it."""
    folder, _ = repository
    for n in range(10):
        text = "".join(
            f'def load_{n}_{k}(path_{n}):\n    """Read entry {k} of list number {n} and give back its price."""\n'
            f"    with open(path_{n}) as file_{k}:\n        return file_{k}.read().split({k})[{n}]\n\n\n"
            for k in range(6)
        )
        (folder / f"lists_{n}.py").write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Add the lists")
    base = make_base(tmp_path / "base")
    done = subprocess.run(
        [sys.executable, "-m", "codetune", "build", str(folder), "--data", "ntp,fim,sft", "--json",
         "--base", str(base), "--set", "sources.cutoff=null", "--set", "dataset.replay_share=0"],
        env=os.environ | {"CODETUNE_HOME": str(tmp_path / "home")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["dataset"]["examples"]["sft"] > 0
    assert {"explain", "document", "commit"} <= printed["dataset"]["instructions"].keys()
    assert printed["dataset"]["leaked"] == 0
    assert (Path(printed["artifact"]) / "sft.jsonl").exists()
    assert (Path(printed["artifact"]) / "sft_readable.json").exists()
