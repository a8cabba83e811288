"""Leaks: what counts as one, that they are removed, and that planted ones are found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.dataset.heldout import candidate_windows, without_leaks
from codetune.dataset.leakage import measure
from codetune.dataset.split import Candidate
from codetune.dataset.windows import LENGTH, WindowSet, telling_windows, windows_of
from codetune.errors import ArtifactError
from codetune.models.prompts import Renderer
from codetune.models.tokens import TokenStore, TokenWriter
from tests.unit.dataset.corpora import built, code, document, rows

TELLING = "".join(f"result_{n} = compute(alpha_{n}, beta[{n}])\n" for n in range(12))


def found(held_out: str, training: str) -> int:
    known = WindowSet([telling_windows(held_out).hashes])
    return len(known.find([training.encode()]))


def test_copied_lines_are_found_however_they_are_indented() -> None:
    moved = "class Other:\n" + "".join("\t\t" + line for line in TELLING.splitlines(True))
    assert found(TELLING, moved) == len(windows_of(TELLING).hashes) > 50
    assert found(TELLING, TELLING.replace("\n", "\r\n\r\n")) > 50
    assert found(TELLING, code(1)) == 0


def test_no_window_reaches_from_one_text_into_the_next() -> None:
    lines = TELLING.splitlines(True)
    known = WindowSet([telling_windows(TELLING).hashes])
    halves = ["".join(lines[:6]).encode(), "".join(lines[6:]).encode()]
    alone = {n for half in halves for n in known.find([half]).tolist()}
    assert set(known.find(halves).tolist()) == alone
    assert len(alone) == len(known) - LENGTH + 1
    many = [b"x = y\n" * 40_000, TELLING.encode(), b"", b"z = y\n"]  # more than is read at once
    assert len(known.find(many)) == len(known)


def test_long_words_differ_anywhere() -> None:
    words = [f"{'a' * n}b{'a' * (70 - n)}" for n in range(71)] + ["a" * 300, "a" * 301]
    text = " ".join(words)
    assert len(set(windows_of(text).hashes.tolist())) == len(words) - LENGTH + 1
    assert found(text, text.replace("b", "c")) == 0
    assert found(text, text[:-1]) == len(words) - LENGTH


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["alpha", "b1", "+", "(", "é", "x_y", ";"]), max_size=80),
       st.integers(0, 80), st.integers(0, 80))  # fmt: skip
def test_windows_are_found_exactly_where_they_stand(tokens: list[str], a: int, b: int) -> None:
    whole, part = " ".join(tokens), " ".join(tokens[min(a, b) : max(a, b)])
    windows = windows_of(part)
    assert (
        len(windows.hashes) == max(0, abs(min(a, len(tokens)) - min(b, len(tokens))) - 31)
        or (
            not any(t.isalnum() for t in tokens)  # a line without words does not count
            or len({t for t in tokens[min(a, b) : max(a, b)] if t.isidentifier()}) <= 1
        )
    )
    assert set(windows.hashes.tolist()) <= set(windows_of(whole).hashes.tolist())
    for start, end in zip(windows.starts, windows.ends, strict=True):
        inside = part.encode()[start:end].decode()
        assert len(inside.replace("(", " ( ").replace(";", " ; ").split()) == LENGTH


def test_windows_over_a_part() -> None:
    text = "# grüße 🙂\n" + TELLING
    at = text.index("alpha_6")
    whole, part = telling_windows(text), telling_windows(text, [(at, at + 7)])
    assert 0 < len(part.hashes) == 32 < len(whole.hashes)
    assert set(part.hashes.tolist()) <= set(whole.hashes.tolist())
    for start, end in zip(part.starts, part.ends, strict=True):
        assert b"alpha_6" in text.encode()[start:end]


def test_what_every_file_has_is_no_leak() -> None:
    imports = "".join(f"from package.module_{n} import name_{n} as n{n}\n" for n in range(30))
    includes = "".join(f'#include "dir/file_{n}.h"\n' for n in range(30))
    ends = "    }\n  });\n\n    return\nelse:\n  }\n" * 20
    table = "0, 0, 0, 0,\n" * 40
    for text in (imports, includes, ends, table):
        assert found(text, text) == 0
    assert found(imports + TELLING, imports + TELLING) > 50


def test_only_leaked_lines_are_taken_out() -> None:
    """Beyond ASCII, bytes and characters differ: the cut is right all the same."""
    head, tail = (
        "# grüße 🙂 你好 an die Welt da draußen, heute\n" * 3,
        "ö = 'ä' + größe(ü, 'ß') * 7\n" * 3,
    )
    text = head + TELLING + tail
    candidate = Candidate(document("a.py", text), "time", [(5, len(text))], whole=True)
    windows = candidate_windows(candidate)
    known = WindowSet([windows.hashes])
    known.mark(known.find([("x = 1\n" + TELLING).encode()]))
    scored, removed = without_leaks(candidate, windows, known)
    assert removed == 1
    assert [text[a:b] for a, b in scored.regions] == [head[5:], tail]


def corpus_with_copies() -> list:
    """A past, a future with copies of it, and new code."""
    past = [document(f"m{n}.py", code(n)) for n in range(30)]
    past[0] = document("m0.py", code(0), present=False)
    copied = code(5)[code(5).index("def ") :]
    return [
        *past,
        document("new.py", code("new"), past=False),
        document("partly.py", code("p1") + copied + code("p2"), past=False),
        document("clone.py", code(7).replace("import sys", "import re"), past=False),
        document("m0.py", code(0) + copied + code("added"), past=False, previous_path="m0.py"),
    ]


def test_leaks_are_removed_and_none_is_left(tmp_path: Path) -> None:
    artifact = built(tmp_path, corpus_with_copies(), minimum_future=0, window=256)
    texts = rows(artifact, "heldout.parquet")
    assert {row["path"] for row in texts} == {"new.py", "partly.py", "m0.py"}
    scored = "".join(row["text"] for row in texts)
    for line in code(5).splitlines():
        assert len(line) < 40 or line not in scored
    for fresh in (code("new"), code("p1"), code("added")):
        kept = [line for line in fresh.splitlines() if len(line) > 40]
        assert all(line in scored for line in kept)
    assert artifact.summary["leaked"] == 0
    assert artifact.summary["leakage"]["near_duplicate_files_removed"] == 1
    assert artifact.summary["leakage"]["runs_removed"] == 2
    assert artifact.summary["leaked_removed"] == 3


@pytest.mark.parametrize("family", ["qwen", "codellama", "gpt2"])
@pytest.mark.parametrize("store", ["tokens", "validation"])
def test_a_planted_leak_is_found(tmp_path: Path, family: str, store: str) -> None:
    """The check reads the tokens: what a broken build trains on, it sees."""
    artifact = built(tmp_path, corpus_with_copies(), family=family, minimum_future=0, window=256)
    base = tmp_path / f"base-{family}"
    assert measure(artifact.path, base).leaked == 0
    row = next(row for row in rows(artifact, "heldout.parquet") if row["path"] == "new.py")
    _append(artifact.path / store, Renderer.from_folder(base), code("x") + row["text"][-300:])
    leakage = measure(artifact.path, base)
    assert leakage.leaked >= 1
    assert "text " + row["id"] in leakage.ids


@pytest.mark.parametrize("order", ["psm", "spm", "spm-marked"])
def test_a_leak_planted_into_a_fim_example_is_found(tmp_path: Path, order: str) -> None:
    artifact = built(tmp_path, corpus_with_copies(), minimum_future=0, window=256)
    renderer = Renderer.from_folder(tmp_path / "base-qwen")
    row = rows(artifact, "heldout_fim.parquet")[0]
    cut = row["prefix"][-300:], row["middle"], row["suffix"][:300]
    ids, _ = renderer.fim_example(*cut, repo="r", path="p.py", order=order)  # type: ignore[arg-type]
    _append(artifact.path / "tokens", renderer, ids)
    leakage = measure(artifact.path, tmp_path / "base-qwen")
    assert "fim " + row["id"] in leakage.ids


def _append(path: Path, renderer: Renderer, more: str | list[int]) -> None:
    """Add a text or an example to a finished store."""
    store = TokenStore.open(path)
    columns = zip(store, store.streams, store.documents, strict=True)
    examples = [(ids.tolist(), stream, number) for (ids, _), stream, number in columns]
    with TokenWriter(path, store.vocab_size) as writer:
        for ids, stream, number in examples:
            writer.append(ids, stream=("ntp", "fim")[stream], document=int(number))
        if isinstance(more, str):  # in pieces, as a long file is, each too short for a window
            cut = len(more) - 150
            for piece in (renderer.plain(more[:cut]), renderer.plain(more[cut:])):
                head = renderer.start("r", "p.py")
                writer.append([*head, *piece], stream="ntp", document=9999)
        else:
            writer.append(more, stream="fim", document=9999)


def test_a_damaged_store_is_said(tmp_path: Path) -> None:
    artifact = built(tmp_path, corpus_with_copies(), minimum_future=0)
    (artifact.path / "tokens" / "store.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a token store"):
        measure(artifact.path, tmp_path / "base-qwen")
