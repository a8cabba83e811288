"""What is held out, from repositories of all sizes and pasts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from codetune.artifacts import Artifact
from codetune.dataset.table import read_examples
from codetune.errors import ConfigError, DatasetError, ModelError
from codetune.models.prompts import Renderer
from codetune.models.tokens import TokenStore
from tests.unit.dataset.corpora import built, code, document, rows


def files(count: int, functions: int = 4) -> list:
    return [document(f"pkg/m{n}.py", code(n, functions)) for n in range(count)]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def trained(artifact: Artifact) -> dict[str, str]:
    """Path → text of everything that next-token examples hold."""
    texts: dict[str, str] = {}
    for row in rows(artifact, "examples.parquet"):
        if row["stream"] == "ntp":
            texts[row["path"]] = texts.get(row["path"], "") + row["text"]
    return texts


def test_by_time(tmp_path: Path) -> None:
    old, added = code("old"), code("added").replace("import json\nimport sys\n", "")
    documents = [
        *files(30),
        document("changed.py", old, present=False),
        document("changed.py", old + added, past=False, previous_path="changed.py"),
        document("gone.py", code("gone"), present=False),
        document("new.py", code("new", 9), past=False),
        document("moved/here.py", code("there") + added, past=False, previous_path="there.py"),
        document("there.py", code("there"), present=False),
    ]
    artifact = built(tmp_path, documents, minimum_future=100)
    texts = trained(artifact)
    past = {one.path: one.text for one in documents if one.in_past}
    assert all(past[path] == text for path, text in texts.items())
    assert not {"new.py", "moved/here.py"} & texts.keys()
    held = rows(artifact, "heldout.parquet")
    assert {row["split"] for row in held} == {"time"}
    for row in held:
        if row["path"] != "new.py":
            assert row["text"].strip() in added
            assert row["context"].endswith(old[-100:]) or "moved" in row["path"]
    assert "".join(row["text"] for row in held if row["path"] == "new.py") == code("new", 9)
    summary = artifact.summary
    assert summary["heldout_bytes"] == sum(row["bytes"] for row in held)
    assert summary["heldout_files"] == 3
    assert summary["split"]["time"] == summary["heldout_bytes"]
    # Early stopping has files of the past, which are not trained on.
    assert summary["validation_tokens"] == TokenStore.open(artifact.path / "validation").tokens > 0
    assert len(texts) == 33 - summary["validation_files"]


def test_by_file_where_there_is_no_past(tmp_path: Path) -> None:
    documents = files(20)
    artifact = built(tmp_path, documents)
    held = rows(artifact, "heldout.parquet")
    texts = trained(artifact)
    assert {row["split"] for row in held} == {"file"}
    assert not {row["path"] for row in held} & texts.keys()
    assert (
        len(texts) + artifact.summary["heldout_files"] + artifact.summary["validation_files"] == 20
    )
    assert len(texts) >= 14
    assert artifact.summary["leaked"] == 0
    by_path = {d.path: d.text for d in documents}
    assert all(texts[path] == by_path[path] for path in texts)
    assert len(rows(artifact, "heldout_fim.parquet")) > 20


def test_too_little_future_is_helped_out_by_files(tmp_path: Path) -> None:
    documents = [*files(20), document("new.py", code("new", 1), past=False)]
    artifact = built(tmp_path, documents)
    assert {row["split"] for row in rows(artifact, "heldout.parquet")} == {"time", "file"}


def test_prompts_are_of_scored_code(tmp_path: Path) -> None:
    documents = [*files(20), document("new.py", code("new", 30), past=False)]
    documents += [document("changed.py", code("a", 9), present=False)]
    # The new code stands between old code: no prompt may reach into that.
    a, b = code("a", 9), code("b", 9).split("\n", 2)[2]
    middle = a.index("\ndef ", len(a) // 2) + 1
    changed = a[:middle] + b + a[middle:]
    documents += [document("changed.py", changed, past=False, previous_path="changed.py")]
    artifact = built(tmp_path, documents, minimum_future=0, heldout_fim=60)
    gaps = rows(artifact, "heldout_fim.parquet")
    assert len(gaps) == artifact.summary["heldout_fim"] == 60
    whole = {d.path: d.text for d in documents if not d.in_past}
    scored = "".join(row["text"] for row in rows(artifact, "heldout.parquet"))
    assert {gap["path"] for gap in gaps} == {"new.py", "changed.py"}
    for gap in gaps:
        assert gap["prefix"] + gap["middle"] + gap["suffix"] == whole[gap["path"]]
        assert gap["middle"] in scored
        assert gap["path"] == "new.py" or gap["middle"] not in code("a", 9)
        assert 6 <= len(gap["middle"].encode()) <= 300
    kinds = {gap["kind"].split(":")[0] for gap in gaps}
    assert kinds >= {"line", "syntax"}
    assert sum(len(gap["middle"]) < 60 for gap in gaps) > 15  # as short as real completions
    assert len({gap["id"] for gap in gaps}) == 60


def test_caps(tmp_path: Path) -> None:
    documents = [*files(40), *(document(f"n{n}.py", code(f"n{n}"), past=False) for n in range(40))]
    artifact = built(tmp_path, documents, heldout_bytes=10_000, heldout_fim=7)
    held = rows(artifact, "heldout.parquet")
    assert 8_000 < sum(row["bytes"] for row in held) <= 10_000
    assert len({row["path"] for row in held}) > 3
    assert len(rows(artifact, "heldout_fim.parquet")) == 7


@pytest.mark.parametrize("letter", ["a", "\N{CYRILLIC SMALL LETTER A}"])
def test_a_cap_below_the_size_of_a_file(tmp_path: Path, letter: str) -> None:
    documents = [document(f"m{n}.py", code(n, 16).replace("a", letter)) for n in range(9)]
    artifact = built(tmp_path, documents, heldout_bytes=1024)
    assert 500 < sum(row["bytes"] for row in rows(artifact, "heldout.parquet")) <= 1024


def test_near_duplicates_do_not_straddle(tmp_path: Path) -> None:
    pairs = files(12)
    twins = [document(f"twin/{n}.py", d.text.replace("json", "toml")) for n, d in enumerate(pairs)]
    others = [document(f"o{n}.py", code(f"o{n}")) for n in range(9)]
    artifact = built(tmp_path, [*pairs, *twins, *others])
    held, texts = rows(artifact, "heldout.parquet"), trained(artifact)
    assert held
    tested = {row["path"] for row in held}
    for one, other in zip(pairs, twins, strict=True):
        assert (one.path in texts) == (other.path in texts)
        assert (one.path in tested) == (other.path in tested)
    assert artifact.summary["leakage"]["near_duplicate_files_removed"] > 0
    assert artifact.summary["leaked"] == 0


def test_nothing_but_copies(tmp_path: Path) -> None:
    copies = [document(f"m{n}.py", code(1).replace("json", f"x{n}")) for n in range(20)]
    with pytest.raises(DatasetError, match="every candidate has a copy"):
        built(tmp_path, copies)


@pytest.mark.parametrize(
    "documents", [[], files(1, 9), files(2, 3), [document("a.py", "x = 1\n")] * 9]
)
def test_too_little_text(tmp_path: Path, documents: list) -> None:
    with pytest.raises(DatasetError, match=r"not enough text|no documents|Nothing could"):
        built(tmp_path, documents)
    assert not list((tmp_path / "datasets").glob("*/manifest.json"))


@pytest.mark.parametrize(("count", "functions"), [(3, 9), (4, 9), (5, 200)])
def test_three_files_are_enough(tmp_path: Path, count: int, functions: int) -> None:
    artifact = built(tmp_path, files(count, functions), window=256)
    assert artifact.summary["heldout_files"] >= 1
    assert artifact.summary["documents"] >= 1
    assert artifact.summary["leaked"] == 0


def test_one_file_of_code_is_trained_on(tmp_path: Path) -> None:
    prose = [document(f"d{n}.md", code(f"d{n}", 2), language="markdown") for n in range(9)]
    artifact = built(tmp_path, [document("a.py", code(1, 9)), *prose])
    assert "a.py" in trained(artifact)


def test_prose_is_held_out_only_without_code(tmp_path: Path) -> None:
    prose = [document(f"d{n}.md", code(f"d{n}"), language="markdown") for n in range(20)]
    artifact = built(tmp_path / "both", [*files(20), *prose])
    assert {row["language"] for row in rows(artifact, "heldout.parquet")} == {"python"}
    assert any(path.endswith(".md") for path in trained(artifact))
    artifact = built(tmp_path / "prose", prose)
    assert {row["language"] for row in rows(artifact, "heldout.parquet")} == {"markdown"}


@pytest.mark.parametrize("future", [False, True])
@pytest.mark.parametrize("kind", ["python", "markdown"])
def test_what_is_not_trained_on_is_not_held_out(tmp_path: Path, kind: str, future: bool) -> None:
    prose = [document(f"d{n}.md", code(f"d{n}"), language="markdown") for n in range(12)]
    added = [
        document("new.py", code("new", 9), past=False),
        document("new.md", code("new prose", 9), past=False, language="markdown"),
    ]
    documents = [*files(12), *prose, *(added if future else [])]
    unwanted = "train_on_docs" if kind == "python" else "train_on_code"
    options = {unwanted: False, "minimum_future": 100 if future else 10_000}
    artifact = built(tmp_path, documents, **options)
    held = rows(artifact, "heldout.parquet")
    assert {row["language"] for row in held} == {kind}
    assert {row["split"] for row in held} == {"time" if future else "file"}
    texts = trained(artifact)
    assert {path.endswith(".py") for path in texts} == {kind == "python"}
    scored = set() if future else {row["path"] for row in held}
    assert len(texts) + len(scored) + artifact.summary["validation_files"] == 12


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    documents = [*files(60), *(document(f"n{n}.py", code(f"n{n}"), past=False) for n in range(9))]
    one = built(tmp_path / "one", documents, processes=1)
    two = built(tmp_path / "two", documents, processes=2)
    assert digests(one.path) == digests(two.path)
    assert one.digest == two.digest
    other = built(tmp_path / "one", documents, seed=1)
    assert other.digest != one.digest
    assert digests(other.path)["tokens/tokens.bin"] != digests(one.path)["tokens/tokens.bin"]


def test_a_base_without_fim(tmp_path: Path) -> None:
    artifact = built(tmp_path, files(20), family="gpt2")
    assert artifact.summary["examples"]["fim"] == 0
    assert artifact.summary["examples"]["ntp"] > 20
    assert rows(artifact, "heldout_fim.parquet") == []
    with pytest.raises(DatasetError, match="base-gpt2 has no fill-in-the-middle tokens"):
        built(tmp_path, files(20), family="gpt2", use_fim=True)
    with pytest.raises(DatasetError, match="Neither"):
        built(tmp_path, files(20), family="gpt2", use_ntp=False)


def test_options_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="window is 512 tokens, the base base-qwen reads 256"):
        built(tmp_path, files(20), window=512)
    with pytest.raises(ConfigError, match="span_mix"):
        built(tmp_path, files(20), span_mix={"syntax": 0, "line": 0, "random": 0})
    with pytest.raises(ConfigError, match="fim_rate"):
        built(tmp_path, files(20), fim_rte=0.3)


def test_streams(tmp_path: Path) -> None:
    only = built(tmp_path, files(20), use_ntp=False).summary
    assert only["examples"]["ntp"] == 0
    assert only["tokens_by_stream"]["fim"] > 10_000
    none = built(tmp_path, files(20), use_fim=False).summary
    assert none["examples"]["fim"] == 0
    assert none["heldout_fim"] > 0  # whether tuned for it or not, the base can be asked


def test_prompts_stay_inside_of_added_lines(tmp_path: Path) -> None:
    old = code("a", 30)
    added = [f"    fresh_{n} = compute_{n}(" for n in range(90)]
    lines, new = old.splitlines(keepends=True), ""
    for number, line in enumerate(lines):
        new += line
        if number % 6 == 0:
            block = added[number // 2 : number // 2 + 3]
            new += "".join(f"{text}{number}, beta_{number})\n" for text in block)
    documents = [*files(20), document("a.py", old, present=False)]
    documents += [document("a.py", new, past=False, previous_path="a.py")]
    gaps = rows(built(tmp_path, documents, minimum_future=0), "heldout_fim.parquet")
    assert len(gaps) > 20
    assert sum("\n" in gap["middle"] for gap in gaps) > 0
    for gap in gaps:
        whole = gap["prefix"].rpartition("\n")[2] + gap["middle"] + gap["suffix"].partition("\n")[0]
        assert all("fresh" in line for line in whole.split("\n"))


def test_the_store_is_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codetune.dataset.build._BATCH", 5000)  # several batches
    documents = files(20)
    artifact = built(tmp_path, documents)
    store, table = TokenStore.open(artifact.path / "tokens"), rows(artifact, "examples.parquet")
    renderer = Renderer.from_folder(tmp_path / "base-qwen")
    assert len(store) == len(table) == sum(artifact.summary["examples"].values())
    assert store.tokens == artifact.summary["tokens"]
    paths = [row["path"] for row in table]
    assert len(set(zip(paths, store.documents.tolist(), strict=True))) == len(set(paths))
    assert len(set(store.documents.tolist())) == artifact.summary["documents"] == len(set(paths))
    for number, row in enumerate(table):
        ids, loss_from = store[number]
        assert (loss_from > 0) == (row["header"] or row["stream"] == "fim")
        assert len(ids) == row["tokens"] <= 256
        assert ["ntp", "fim"][store.streams[number]] == row["stream"]
        text = row["text"] if row["stream"] == "ntp" else row["middle"]
        assert renderer.decode(ids.tolist()).endswith(text)
        assert row["commit"] == "beef"
        assert row["licence"] == "MIT"
    assert len({row["id"] for row in table}) == len(table)
    examples = list(read_examples(artifact / "examples.parquet"))
    assert [e.id for e in examples] == [row["id"] for row in table]
    by_path = {d.path: d.text for d in documents}
    for one in examples:
        whole = by_path[one.source.path][slice(*one.source.span)]
        assert (one.text is None) == (one.stream == "fim") == (one.fim is not None)
        assert whole == one.text or (
            one.fim is not None and whole == one.fim.prefix + one.fim.middle + one.fim.suffix
        )


def test_a_broken_tokenizer_is_said(tmp_path: Path) -> None:
    artifact = built(tmp_path, files(20))
    assert artifact.summary
    (tmp_path / "base-qwen" / "tokenizer.json").unlink()
    from codetune.dataset.build import build
    from codetune.dataset.config import DatasetOptions
    from codetune.progress import Progress
    from tests.unit.dataset.corpora import REPOSITORY

    with pytest.raises(ModelError, match="tokenizer"):
        build(artifact, REPOSITORY, tmp_path / "base-qwen", DatasetOptions(), tmp_path, Progress())
