"""`codetune data`: what is checked, shown, counted and reviewed, and how mistakes are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from codetune.cli.data import data
from codetune.dataset.table import read_examples
from codetune.errors import CodetuneError
from codetune.records import Example, Provenance
from tests.unit.dataset.corpora import built, code, document

GOOD = {"instruction": "Add two numbers.", "output": "def add(a, b):\n    return a + b"}


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def run(*arguments: str, keys: str | None = None) -> Result:
    """The command's output; errors of codetune's own come out as they are."""
    result = CliRunner().invoke(data, arguments, input=keys)
    if isinstance(result.exception, CodetuneError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_validate(tmp_path: Path) -> None:
    good = lines(tmp_path / "good.jsonl", GOOD, GOOD)
    bad = lines(tmp_path / "bad.jsonl", GOOD, GOOD | {"output": ""})
    done = run("validate", good)
    assert done.exit_code == 0
    assert "good.jsonl: 2 examples, 2 answers, no bad row" in done.output
    done = run("validate", good, bad)
    assert done.exit_code == 2
    assert "bad.jsonl, row 2, field 'output': is empty" in done.output
    done = run("validate", bad, "--base", "nano", "--json")
    (report,) = json.loads(done.stdout)["files"]
    assert done.exit_code == 2
    assert report["valid"] is False
    assert report["examples"] == report["problems"] == 1
    assert report["first_problems"][0]["row"] == 2
    assert 0 < report["learned_tokens"] < report["tokens"]
    with pytest.raises(CodetuneError, match="No format fits"):
        run("validate", lines(tmp_path / "a.jsonl", {"q": "a", "a": "b"}))
    renamed = lines(tmp_path / "b.jsonl", {"q": "a", "a": "b"})
    columns = ("--column", "instruction=q", "--column", "output=a")
    assert run("validate", renamed, *columns).exit_code == 0
    assert run("validate", renamed, "--column", "instruction").exit_code == 2


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    lines(folder / "train.jsonl", GOOD)
    lines(folder / "extra.jsonl", GOOD)
    assert (
        "not read, since not of the training split: extra.jsonl"
        in run("validate", str(folder)).output
    )
    (report,) = json.loads(run("validate", str(folder), "--json").stdout)["files"]
    assert report["left_out"] == ["extra.jsonl"]
    config = tmp_path / "codetune.yaml"
    config.write_text(f"dataset: {{mix: [{{name: some, path: {folder}, share: 0.2}}]}}\n")
    (row,) = json.loads(run("mix", str(config), "--json").stdout)["sets"]
    assert row["left_out"] == ["extra.jsonl"]


def test_show(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", GOOD, {"instruction": "Say hi.", "output": "hi"}, [], GOOD)
    done = run("show", file, "--row", "2")
    assert "Say hi.\nassistant:\n⟦hi<|endoftext|>⟧" in done.output
    assert "row 2:" in done.output
    shown = json.loads(run("show", file, "--template", "alpaca", "--json").stdout)
    assert "".join(t["text"] for t in shown["tokens"] if t["loss"]) == (
        GOOD["output"] + "<|endoftext|>"
    )
    assert shown["learned"] == sum(t["loss"] for t in shown["tokens"])
    with pytest.raises(CodetuneError, match="row 3: is a list"):
        run("show", file, "--row", "3")
    with pytest.raises(CodetuneError, match="has no row 9") as past:
        run("show", lines(tmp_path / "b.jsonl", GOOD, [], GOOD), "--row", "9")
    assert past.value.advice == "Its last one is row 3."
    with pytest.raises(CodetuneError, match="row 2: is a list") as bad:
        run("show", str(tmp_path / "b.jsonl"), "--row", "2")
    assert "--skip-bad" not in bad.value.advice
    long = lines(tmp_path / "c.jsonl", GOOD | {"output": "x = 1\n" * 2000})
    with pytest.raises(CodetuneError, match="row 1 is not trained on: the answer does not fit"):
        run("show", long)


def test_mix(tmp_path: Path) -> None:
    rows = [{"instruction": f"{n}?", "output": str(n)} for n in range(50)]
    file = lines(tmp_path / "a.jsonl", *rows)
    config = tmp_path / "codetune.yaml"
    config.write_text(f"dataset:\n  mix:\n  - {{name: sums, path: {file}, share: 0.2}}\n")
    (one,) = json.loads(run("mix", str(config), "--tokens", "4000", "--json").stdout)["sets"]
    assert one["wanted_tokens"] == 1000
    assert one["epochs"] == pytest.approx(1000 / one["tokens"], abs=0.01)
    assert one["enough"]
    done = run("mix", str(config))
    assert "too small for its share" in done.output
    config.write_text("name: x\n")
    with pytest.raises(CodetuneError, match="mixes nothing in"):
        run("mix", str(config))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    rows = [{"instruction": f"What is {n}?", "output": f"It is {n}."} for n in range(60)]
    mix = [{"name": "chats", "path": lines(folder / "a.jsonl", *rows), "share": 0.05}]
    documents = [document(f"shop/part{n}.py", code(n)) for n in range(20)]
    return built(folder, documents, mix=mix, replay_share=0.3).path


def test_review_by_file(dataset: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "sample.jsonl", tmp_path / "review.jsonl"
    arguments = (str(dataset), "--review", str(file))
    done = run("review", *arguments, "--stream", "chats", "--sample", "4", "--export", str(out))
    assert "4 exported" in done.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["verdict"] for row in rows] == [""] * 4
    with pytest.raises(CodetuneError, match="cannot be written"):
        run("review", *arguments, "--export", str(out))
    undecided = run("review", *arguments, "--import", str(out)).output
    assert "nothing decided" in undecided and "Next" not in undecided
    rows[0]["verdict"] = "drop"
    rows[1]["verdict"], rows[1]["messages"][-1]["content"] = "edit", "Better."
    rows[2]["verdict"] = "maybe"
    with pytest.raises(CodetuneError, match=r"row 3, field 'verdict': cannot be 'maybe'"):
        run("review", *arguments, "--import", lines(out, *rows))
    assert not file.exists()
    rows[2]["verdict"] = "keep"
    stray = {"id": "nowhere", "verdict": "drop"}
    with pytest.raises(CodetuneError, match=r"row 5, field 'id': .* has no example 'nowhere'"):
        run("review", *arguments, "--import", lines(out, *rows, stray))
    assert not file.exists()
    done = run("review", *arguments, "--import", lines(out, *rows), "--json")
    assert json.loads(done.stdout) == {"drop": 1, "edit": 1, "keep": 1}
    assert [json.loads(line)["verdict"] for line in file.read_text().splitlines()] == [
        "drop",
        "edit",
        "keep",
    ]


@pytest.mark.parametrize("stream", ["ntp", "fim", "replay"])
def test_the_repository_s_text_is_not_edited(dataset: Path, stream: str, tmp_path: Path) -> None:
    out, file = tmp_path / "sample.jsonl", tmp_path / "review.jsonl"
    arguments = (str(dataset), "--review", str(file))
    run("review", *arguments, "--stream", stream, "--sample", "2", "--export", str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    rows[0]["verdict"], rows[1]["verdict"], rows[1]["text"] = "keep", "edit", "x = 1\n"
    with pytest.raises(CodetuneError, match=r"row 2, field 'text': .* cannot be edited") as error:
        run("review", *arguments, "--import", lines(out, *rows))
    assert "keep or drop" in error.value.advice
    assert not file.exists()


def test_review_in_the_terminal(dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    arguments = ("review", str(dataset), "--review", str(file), "--sample", "3")
    done = run(*arguments, "--stream", "chats", keys="xdsq")
    assert "1 of 3  chats" in done.output
    assert "It is " in done.output
    assert [json.loads(line)["verdict"] for line in file.read_text().splitlines()] == ["drop"]
    again = run(*arguments, "--stream", "chats", keys="kk")
    assert "1 of 2" in again.output
    assert len(file.read_text().splitlines()) == 3
    fim = run(*arguments, "--stream", "fim", keys="ekq")  # an example that nobody can edit
    assert "1 keep" in fim.output


def test_review_without_a_terminal(dataset: Path, tmp_path: Path) -> None:
    """A session of its own has none, as cron and CI have none."""
    done = subprocess.run(
        [sys.executable, "-m", "codetune", "data", "review", str(dataset)],
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        start_new_session=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "--export" in done.stderr and "--import" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_edit_in_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codetune.cli.review import ask

    editor = tmp_path / "editor.sh"
    editor.write_text('#!/bin/sh\nsed -i s/wrong/right/ "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setattr("click.getchar", lambda: "e")
    turns = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "wrong"})
    one = Example("1", "sft", Provenance("r", None, "p", (1, 1), "MIT"), messages=turns)
    assert ask([one], tmp_path / "review.jsonl") == {"edit": 1}
    row = json.loads((tmp_path / "review.jsonl").read_text())
    assert row["messages"][-1]["content"] == "right"


def test_a_row_of_a_built_dataset(tmp_path: Path) -> None:
    from codetune.artifacts import run_stage
    from codetune.models.load import resolve_base
    from codetune.models.prompts import Renderer
    from codetune.models.tokens import TokenWriter

    base = resolve_base("nano").path
    renderer = Renderer.from_folder(base)

    def make(folder: Path) -> dict[str, int]:
        with TokenWriter(folder / "tokens", renderer.vocab_size) as tokens:
            tokens.append(renderer.plain("x = 1"), stream="ntp", document=0)
            ids, _ = renderer.fim_example("a", "MIDDLE", "c")
            tokens.append(ids, stream="fim", document=0, loss_from=len(ids) - 2)
        return {}

    inputs = {"tokenizer": Renderer.digest_of(base)}
    folder = run_stage("dataset", tmp_path, {}, inputs, make).path
    assert "⟦x = 1⟧\n\nrow 1, stream ntp" in run("show", str(folder)).output
    shown = json.loads(run("show", str(folder), "--row", "2", "--json").stdout)
    assert shown["stream"] == "fim"
    assert shown["learned"] == 2
    with pytest.raises(CodetuneError, match="examples 1 to 2, and no 3"):
        run("show", str(folder), "--row", "3")
    other = run_stage("dataset", tmp_path, {}, {"tokenizer": "another"}, make).path
    with pytest.raises(CodetuneError, match="built for another base"):
        run("show", str(other))


def test_write(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "train.jsonl"
    assert f"written to {out}" in run("write", str(dataset), str(out)).output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    written = [
        one.text for one in read_examples(dataset / "examples.parquet") if one.stream == "ntp"
    ]
    assert rows == [{"text": text} for text in written] != []
    chats = tmp_path / "chats.jsonl"
    run("write", str(dataset), str(chats), "--stream", "chats", "--format", "messages")
    row = json.loads(chats.read_text().splitlines()[0])
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    with pytest.raises(CodetuneError, match="no stream 'sft'"):
        run("write", str(dataset), str(tmp_path / "none.jsonl"), "--stream", "sft")
    assert not (tmp_path / "none.jsonl").exists()
    general = tmp_path / "general.jsonl"
    said = run("write", str(dataset), str(general), "--stream", "replay").output
    replayed = [
        one for one in read_examples(dataset / "examples.parquet") if one.stream == "replay"
    ]
    whole = [{"text": one.text} for one in replayed if one.fim is None]
    assert [json.loads(line) for line in general.read_text().splitlines()] == whole != []
    assert f"{len(replayed) - len(whole)} fill-in-the-middle examples have no form" in said
    with pytest.raises(CodetuneError, match="has no form that other tools read"):
        run("write", str(dataset), str(tmp_path / "none.jsonl"), "--stream", "fim")
    with pytest.raises(CodetuneError, match="cannot be written: File exists"):
        run("write", str(dataset), str(out / "below.jsonl"))
    with pytest.raises(CodetuneError, match="cannot be written: File name too long"):
        run("write", str(dataset), str(tmp_path / ("x" * 300 + ".jsonl")))


def test_what_is_no_dataset(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(CodetuneError, match="not a built dataset"):
        run("review", str(tmp_path))
    with pytest.raises(CodetuneError, match="no stream 'sft'") as error:
        run("review", str(dataset), "--stream", "sft")
    assert "chats, fim, ntp" in error.value.advice


def test_every_command_shows_how_it_is_used() -> None:
    for name, command in data.commands.items():
        assert "Examples:" in (command.help or ""), name
