"""Sets mixed in by token share: what is drawn, repeated, left out, held out, and said."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from codetune.dataset.config import DatasetOptions
from codetune.dataset.conversations import Conversations
from codetune.dataset.inspection import check_decisions
from codetune.dataset.manifest import Own, manifest
from codetune.dataset.mix import Mixture, inputs_of
from codetune.dataset.review import Decision, Review, append_decision
from codetune.dataset.table import ExamplesFile, read_examples
from codetune.dataset.windows import WindowSet, telling_windows
from codetune.errors import ConfigError, DatasetError
from codetune.models.tokens import TokenStore, TokenWriter
from codetune.progress import Progress, Quiet
from tests.unit.dataset.corpora import NOUNS, VERBS, code
from tests.unit.models.tiny_families import renderer

OWN = 30_000  # tokens of the repository's own streams


class Said(Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def words(random: Random, count: int) -> str:
    return " ".join(random.choices(NOUNS + VERBS, k=count)) + f" {random.randrange(10**9)}"


def rows(seed: int, count: int, length: int = 40) -> list[dict[str, str]]:
    random = Random(seed)
    return [
        {"instruction": words(random, 6), "output": words(random, random.randrange(5, length))}
        for _ in range(count)
    ]


def jsonl(path: Path, entries: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


class Made:
    """The stores of a mix behind `OWN` tokens of the repository's."""

    def __init__(
        self,
        folder: Path,
        mix: list[dict[str, Any]],
        *,
        held_out: str = "",
        own: int = OWN,
        **options: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        loaded = DatasetOptions.load({"mix": mix} | options, "test")
        base = renderer("qwen")
        said = Said()
        windows = [telling_windows(held_out).hashes] if held_out else []
        path = Path(loaded.review) if loaded.review else None
        review = Review.load(path) if path else Review()
        made = Conversations(base, 256)
        mixture = Mixture(
            loaded,
            made,
            WindowSet(windows),
            review,
            Progress(said),
            inputs_of(loaded),
            text_bytes=4 * OWN,
        )
        names = [one.name for one in loaded.mix]
        with (
            ExamplesFile(folder / "examples.parquet") as table,
            TokenWriter(folder / "tokens", base.vocab_size, names) as tokens,
        ):
            tokens.append(np.zeros(own, np.uint16), stream="ntp", document=0)
            mixture.add_training(tokens, table, 1)
        with TokenWriter(folder / "validation", base.vocab_size, names) as tokens:
            mixture.add_validation(tokens, 0)
        self.folder, self.streams, self.said, self.base = folder, mixture.streams, said.lines, base
        self.store = TokenStore.open(folder / "tokens")
        self.validation = TokenStore.open(folder / "validation")
        self.examples = list(read_examples(folder / "examples.parquet"))

    def tokens(self, name: str) -> int:
        number = self.store.stream_names.index(name)
        return int(self.store.lengths[self.store.streams == number].sum())

    def texts(self, store: TokenStore) -> list[str]:
        """What is learned, of every example of the mix."""
        return [
            self.base.decode(store[n][0][store.loss(n)].tolist())
            for n in range(len(store))
            if store.stream_names[store.streams[n]] not in ("ntp", "fim")
        ]


def test_a_larger_share_and_other_data_beside_it_hold_out_the_same_rows_and_more(
    tmp_path: Path,
) -> None:
    """Else one trial of a search would train on rows that another one is judged by."""
    path = jsonl(tmp_path / "one.jsonl", rows(1, 900))

    def made(number: int, own: int, share: float) -> Made:
        mix = [{"name": "one", "path": path, "share": share}]
        return Made(tmp_path / str(number), mix, own=own)

    least = made(0, OWN, 0.2)
    held = set(least.texts(least.validation))
    assert len(held) > 5
    # With less replayed code, or fewer examples with gaps, there is less beside the set.
    for number, (own, share) in enumerate([(OWN // 3, 0.2), (OWN, 0.4), (OWN // 3, 0.4)], 1):
        other = made(number, own, share)
        assert held <= set(other.texts(other.validation))
        assert not held & set(other.texts(other.store))


def test_shares_of_tokens(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", rows(1, 900))
    two = jsonl(tmp_path / "two.jsonl", rows(2, 900))
    made = Made(
        tmp_path / "out",
        [{"name": "one", "path": one, "share": 0.3}, {"name": "two", "path": two, "share": 0.1}],
    )
    total = made.store.tokens
    assert made.tokens("one") / total == pytest.approx(0.3, abs=0.002)
    assert made.tokens("two") / total == pytest.approx(0.1, abs=0.002)
    for stream in made.streams:
        assert stream.tokens == made.tokens(stream.name)
        assert stream.epochs == 1.0
        assert stream.held_examples > 0
    assert made.said == []
    assert set(made.store.stream_names) >= {"one", "two"}
    # Rows of the table are rows of the store.
    assert len(made.examples) == len(made.store) - 1
    assert made.texts(made.store) == [e.messages[-1]["content"] for e in made.examples]  # type: ignore[index]
    assert {e.source.repo for e in made.examples} == {"one", "two"}
    held = made.texts(made.validation)
    assert len(held) == sum(stream.held_examples for stream in made.streams)
    assert not set(held) & set(made.texts(made.store))
    assert {made.validation.stream_names[n] for n in made.validation.streams} == {"one", "two"}


def test_weights_are_in_relation_to_the_repository(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(1, 900))
    made = Made(tmp_path / "out", [{"name": "a", "path": path, "weight": 0.5}])
    assert made.tokens("a") == pytest.approx(OWN / 2, rel=0.01)


def test_the_seed_decides(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(1, 900))
    mix = [{"name": "a", "path": path, "share": 0.1}]
    files = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        Made(tmp_path / name, mix, seed=seed)
        files[name] = [
            (tmp_path / name / store / file).read_bytes()
            for store in ("tokens", "validation")
            for file in ("tokens.bin", "index.npy", "loss.bin")
        ]
    assert files["one"] == files["same"] != files["other"]


def test_a_small_set_is_repeated_and_said(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(1, 30))
    mix = {"name": "a", "path": path, "share": 0.5, "epochs_at_most": 2.5}
    made = Made(tmp_path / "out", [mix])
    (stream,) = made.streams
    assert stream.epochs == pytest.approx(2.5, abs=0.1)
    assert set(Counter(made.texts(made.store)).values()) == {2, 3}
    assert "too small for its share" in made.said[0]
    record = manifest([Own("ntp", 1, OWN, 1.0)], made.streams, 0)
    shares = {s["name"]: (s["share_wanted"], s["share_reached"]) for s in record["streams"]}
    assert shares["a"][0] == 0.5
    assert shares["a"][1] == pytest.approx(made.tokens("a") / made.store.tokens, abs=1e-5)
    assert shares["ntp"] == (0.5, pytest.approx(OWN / made.store.tokens, abs=1e-5))
    assert sum(reached for _, reached in shares.values()) == pytest.approx(1, abs=1e-5)


def test_a_tiny_set_holds_nothing_out(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(1, 3))
    made = Made(tmp_path / "out", [{"name": "a", "path": path, "weight": 0.001}])
    assert len(made.validation) == 0
    assert any("held-out loss" in line for line in made.said)


def test_copies_and_near_copies_are_left_out(tmp_path: Path) -> None:
    one, two = rows(1, 40), rows(2, 40)
    long = words(Random(3), 45)
    one.append({"instruction": "Say it.", "output": long})
    two += [one[0], {"instruction": "Now say it again.", "output": long + " and more"}, two[5]]
    mix = [
        {"name": "one", "path": jsonl(tmp_path / "one.jsonl", one), "share": 0.3},
        {"name": "two", "path": jsonl(tmp_path / "two.jsonl", two), "share": 0.3},
    ]
    made = Made(tmp_path / "out", mix)
    assert made.streams[0].dropped == {}
    assert made.streams[1].dropped == {"copy": 2, "near-duplicate": 1}


def test_a_near_copy_in_an_earlier_set_takes_nothing_from_what_a_later_one_holds_out(
    tmp_path: Path,
) -> None:
    two = [{"instruction": f"{n}", "output": words(Random(n), 45)} for n in range(40)]
    near = [row | {"output": row["output"] + " and more"} for row in two]
    mix = [
        {"name": "one", "path": jsonl(tmp_path / "one.jsonl", rows(1, 90) + near), "share": 0.3},
        {"name": "two", "path": jsonl(tmp_path / "two.jsonl", two), "share": 0.3},
    ]
    alone = Made(tmp_path / "alone", [mix[1]])
    held = alone.texts(alone.validation)
    made = Made(tmp_path / "out", mix)
    assert len(held) > 1 and set(held) <= set(made.texts(made.validation))
    assert not any(text.startswith(tuple(held)) for text in made.texts(made.store))


def test_held_out_text_never_enters(tmp_path: Path) -> None:
    secret = code("held out")
    entries = [*rows(1, 40), {"instruction": "Write the shop.", "output": secret[:900]}]
    path = jsonl(tmp_path / "a.jsonl", entries)
    made = Made(
        tmp_path / "out", [{"name": "a", "path": path, "share": 0.3}], held_out=secret, window=1024
    )
    assert made.streams[0].dropped == {"holds held-out text": 1}


def test_answers_that_do_not_fit(tmp_path: Path) -> None:
    entries = rows(1, 40)
    entries += [{"instruction": "Go on.", "output": code(n)} for n in range(20)]
    mix = [{"name": "a", "path": jsonl(tmp_path / "a.jsonl", entries), "share": 0.3}]
    with pytest.raises(DatasetError, match=r"20 of 60 .* 'a' .* does not fit the window") as error:
        Made(tmp_path / "out", mix)
    assert "refused_at_most" in error.value.advice
    assert "dataset.window" in error.value.advice and "template" not in error.value.advice
    places = error.value.message.splitlines()[1:]
    rows_named = [
        re.fullmatch(r"  a.jsonl, row (\d+): the answer does not .*", x) for x in places[:-1]
    ]
    assert len(rows_named) == 5 and all(row and int(row[1]) > 40 for row in rows_named)
    assert places[-1] == "  … 15 more"
    made = Made(tmp_path / "out2", mix, refused_at_most=0.5)
    assert made.streams[0].dropped["not encoded: the answer does not fit the window"] == 20
    assert made.streams[0].examples <= 40


def test_rows_without_a_question_are_not_helped_by_a_window(tmp_path: Path) -> None:
    alone = [{"messages": [{"role": "assistant", "content": f"Say {n}."}]} for n in range(9)]
    mix = [{"name": "a", "path": jsonl(tmp_path / "a.jsonl", alone), "share": 0.3}]
    with pytest.raises(DatasetError, match=r"no question \(9\)") as error:
        Made(tmp_path / "out", mix)
    assert error.value.advice == "Mend these rows, or allow it: dataset.refused_at_most."


def test_bad_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*rows(1, 40), {"instruction": "x", "output": ""}])
    mix = {"name": "a", "path": path, "share": 0.3}
    with pytest.raises(DatasetError, match=r"a.jsonl, row 41, field 'output': is empty"):
        Made(tmp_path / "out", [mix])
    made = Made(tmp_path / "out2", [mix | {"skip_bad": True}])
    assert made.streams[0].dropped == {"bad row": 1}


def test_texts_are_mixed_in_whole(tmp_path: Path) -> None:
    texts = [code(n, 3) for n in range(12)]
    path = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    made = Made(tmp_path / "out", [{"name": "notes", "path": path, "share": 0.5}])
    documents: dict[int, str] = {}
    store = made.store
    for number in range(1, len(store)):
        ids, document = store[number][0], int(store.documents[number])
        documents[document] = documents.get(document, "") + made.base.decode(ids.tolist())
        assert store.loss(number).all()
    assert set(documents.values()) < set(texts)
    parts = "".join(example.text or "" for example in made.examples)
    assert parts == "".join(documents.values())


def test_a_review_is_honoured(tmp_path: Path) -> None:
    entries = rows(1, 6)
    path = jsonl(tmp_path / "a.jsonl", entries)
    mix = [{"name": "a", "path": path, "share": 0.3}]
    before = Made(tmp_path / "out", mix)
    ids = {e.messages[-1]["content"]: e.id for e in before.examples}  # type: ignore[index]
    (drop, drop_id), (edit, edit_id) = list(ids.items())[:2]
    file = tmp_path / "review.jsonl"
    turns = ({"role": "user", "content": "New?"}, {"role": "assistant", "content": "Better."})
    append_decision(file, Decision(drop_id, "keep"))
    append_decision(file, Decision(drop_id, "drop", note="wrong"))
    append_decision(file, Decision(edit_id, "edit", messages=turns))
    after = Made(tmp_path / "out2", mix, review=str(file))
    learned = set(after.texts(after.store)) | set(after.texts(after.validation))
    assert "Better." in learned
    assert not {drop, edit} & learned
    assert after.streams[0].dropped == {"review": 1}
    assert edit_id in {e.id for e in after.examples}


def test_a_text_in_pieces_is_not_edited_by_one_of_them(tmp_path: Path) -> None:
    texts = [words(Random(n), 20) for n in range(4)] + [code(n, 20) for n in range(4)]
    path = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    mix = [{"name": "notes", "path": path, "share": 0.8}]
    before = Made(tmp_path / "out", mix)
    texts_of: dict[str, set[str | None]] = {}
    for example in before.examples:
        texts_of.setdefault(example.id, set()).add(example.text)
    short, *_, long = sorted(texts_of, key=lambda name: len(texts_of[name]))
    assert len(texts_of[short]) == 1 < len(texts_of[long])
    edits = [Decision(name, "edit", text="Better.", where="row 1") for name in (short, long)]
    file = tmp_path / "review.jsonl"
    append_decision(file, edits[0])
    check_decisions(edits[:1], before.folder)
    after = Made(tmp_path / "out2", mix, review=str(file))
    assert "Better." in {example.text for example in after.examples}
    append_decision(file, edits[1])
    with pytest.raises(DatasetError, match=r"row 1, field 'text': .* several pieces"):
        check_decisions(edits, before.folder)
    with pytest.raises(DatasetError, match="longer than the window"):
        Made(tmp_path / "out3", mix, review=str(file))


def edit_row(**turns: str) -> str:
    messages = [{"role": role, "content": text} for role, text in turns.items()]
    return json.dumps({"id": "a", "verdict": "edit", "messages": messages})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "row 1: is not JSON"),
        ("[]", "row 1: an object"),
        ("{}", "field 'id'"),
        ('{"id": "a", "verdict": "burn"}', "field 'verdict': cannot be 'burn'"),
        ('{"id": "a", "verdict": "edit"}', "an edit needs"),
        ('{"id": "a", "verdict": "edit", "messages": [{"role": "user"}]}', r"messages\[1\]"),
        ('{"id": "a", "verdict": "edit", "text": 7}', "field 'text'"),
        ('{"id": "a", "verdict": "edit", "text": " "}', "field 'text': is empty"),
        (edit_row(user="?", alien="!"), r"row 1, field 'messages\[2\]': has the role 'alien'"),
        (edit_row(user="?", assistant=" "), r"field 'messages\[2\].content': is empty"),
        (edit_row(user="?"), "field 'messages': holds no answer"),
        (edit_row(system="Be brief.", assistant="!"), "field 'messages': holds no question"),
    ],
)
def test_a_broken_review_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "review.jsonl").write_text(line)
    with pytest.raises(DatasetError, match=message):
        Review.load(tmp_path / "review.jsonl")


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ([{"name": "a", "path": "x"}], "a share or a weight"),
        ([{"name": "a", "path": "x", "share": 0.1, "weight": 1}], "not both"),
        ([{"name": "ntp", "path": "x", "share": 0.1}], "stream of the repository"),
        ([{"name": "A b", "path": "x", "share": 0.1}], "mix.0.name"),
        ([{"name": "a", "path": "x", "share": 0.1}] * 2, "same name"),
        ([{"name": n, "path": "x", "share": 0.5} for n in "ab"], "leave nothing"),
        (
            [{"name": "a", "path": "x", "share": 0.5}, {"name": "b", "path": "x", "weight": 1}],
            "all",
        ),
        ([{"name": "a", "path": "x", "share": 0.5, "colums": {}}], "unknown option"),
    ],
)
def test_bad_options(mix: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DatasetOptions.load({"mix": mix}, "test")
