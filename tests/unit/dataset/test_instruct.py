"""Instructions from documents: real answers, named things, counted drops."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetune.artifacts import Artifact
from codetune.cli.options import data_settings
from codetune.dataset.build import build
from codetune.dataset.config import DatasetOptions
from codetune.dataset.heldout import Scored
from codetune.dataset.inspection import check_decisions
from codetune.dataset.instruct.config import InstructionOptions
from codetune.dataset.instruct.diffs import unified, unmarked
from codetune.dataset.instruct.filters import reason_against
from codetune.dataset.instruct.make import InstructionMaker, read_pairs
from codetune.dataset.instruct.pairs import Pair
from codetune.dataset.instruct.select import Pool
from codetune.dataset.instructions import Encoding, Instructions
from codetune.dataset.leakage import Purged, decoded
from codetune.dataset.replay import replay_documents
from codetune.dataset.review import Decision, Review, append_decision, read_decisions
from codetune.dataset.split import Candidate
from codetune.dataset.table import read_examples
from codetune.dataset.windows import WindowSet, telling_windows
from codetune.errors import ConfigError, DatasetError
from codetune.models.prompts import Renderer
from codetune.models.tokens import STREAMS, TokenStore
from codetune.progress import Progress
from codetune.records import Document
from codetune.workers import Workers
from tests.unit.dataset.corpora import REPOSITORY, built, code, corpus, document, rows
from tests.unit.models.tiny_families import write_base

CART = '''"""The shopping cart: what a customer wants to buy, and what it costs."""

import json
from collections import Counter


def total(prices, tax=0.2):
    """Add up the prices of all items and put the tax on top of the sum.

    :param prices: one number an item
    """
    amount = 0
    for price in prices:
        amount += price
    return amount * (1 + tax)


def total_weight(items):
    weight = 0
    for item in items:
        if item.weight is None:
            raise ValueError(item)
        weight += item.weight
    rounded = round(weight, 2)
    return rounded
'''
TESTS = """from shop.cart import total, total_weight


def test_total_adds_tax():
    assert total([100.0, 20.0], tax=0.5) == 180.0
    assert total([], tax=0.5) == 0.0


def test_total_weight_is_rounded():
    with pytest.raises(ValueError):
        total_weight([Item(weight=None)])


def test_both():
    assert total([1]) < total_weight([Item(weight=100.0), Item(weight=100.0)])
"""
README = """# Shop

## Install the shop

Run the installer once on every machine that shall serve the shop, then restart the machine so
that the service is started with it:

```sh
# not a heading
make install
```

## How are taxes computed?

The function `total` puts the tax on top. Call `total(prices, tax)` with the rate of the country
that the customer lives in; the shop knows the rates of all countries of the union.

## Links

- [one](https://example.org/1)
- [two](https://example.org/2)
"""


def asked(documents: Sequence[Document], folder: Path, **options: Any) -> tuple[list[Pair], Any]:
    made = InstructionMaker(
        lambda: iter([list(documents)]), 0, "c0ffee", InstructionOptions(**options), Workers(1)
    )
    counts = made.write(folder)
    return list(read_pairs(folder / "sft.jsonl")), counts


@pytest.fixture
def shop() -> list[Document]:
    return [
        document("shop/cart.py", CART),
        document("tests/test_cart.py", TESTS),
        document("README.md", README, language="markdown"),
    ]


def of(pairs: Sequence[Pair], kind: str) -> list[Pair]:
    return [pair for pair in pairs if pair.kind == kind]


def test_answers_are_text_of_the_repository_and_questions_name_the_thing(
    shop: list[Document], tmp_path: Path
) -> None:
    pairs, counts = asked(shop, tmp_path)
    texts = {one.path: one.text for one in shop}
    assert counts.kinds == {"explain": 3, "complete": 2, "document": 1, "test": 2, "question": 2}
    for pair in pairs:
        told = " ".join(pair.output.split())
        assert told in " ".join(texts[pair.path].split())
        assert " ".join(texts[pair.path][slice(*pair.span)].split()).find(told[:40]) >= 0
        assert "`" in pair.instruction
        assert (pair.commit, pair.licence) == ("c0ffee", "MIT")
    explained = {pair.instruction.split("`")[1]: pair for pair in of(pairs, "explain")}
    assert "shop/cart.py" in explained
    assert any("how" in p.instruction or "say" in p.instruction or "used" in p.instruction
               for p in of(pairs, "explain") if p.path == "README.md")  # fmt: skip


def test_a_docstring_is_asked_for_without_showing_it(shop: list[Document], tmp_path: Path) -> None:
    (pair,) = of(asked(shop, tmp_path)[0], "document")
    assert pair.output.startswith('"""Add up the prices')
    assert ":param prices" in pair.output
    assert "Add up" not in pair.input
    assert pair.input.startswith("def total(prices, tax=0.2):\n    amount = 0\n")


def test_a_completion_joins_to_the_whole_definition(shop: list[Document], tmp_path: Path) -> None:
    for pair in of(asked(shop, tmp_path)[0], "complete"):
        assert f"{pair.input}\n{pair.output}".rstrip("\n") in CART
        assert pair.input.startswith("def total")


def test_a_test_is_joined_to_its_function_or_to_none(shop: list[Document], tmp_path: Path) -> None:
    pairs, counts = asked(shop, tmp_path)
    joined = {pair.output.split("(")[0]: pair for pair in of(pairs, "test")}
    assert joined.keys() == {"def test_total_adds_tax", "def test_total_weight_is_rounded"}
    assert joined["def test_total_adds_tax"].input.startswith("def total(")
    assert joined["def test_total_weight_is_rounded"].input.startswith("def total_weight(")
    assert counts.dropped["function_not_found"] == 1  # test_both calls two and is named for none


def test_headings_become_questions_and_fences_stay_whole(
    shop: list[Document], tmp_path: Path
) -> None:
    pairs = of(asked(shop, tmp_path)[0], "question")
    install, taxes = sorted(pairs, key=lambda pair: pair.span)
    assert "install the shop" in install.instruction.lower()
    assert install.output.endswith("```sh\n# not a heading\nmake install\n```")
    assert taxes.instruction.startswith("How are taxes computed?")


@pytest.mark.parametrize(
    ("output", "kind", "reason"),
    [
        ("Too short.", "explain", "too_short"),
        ("TODO: describe what this function does to all of the items", "explain", "todo"),
        ("Copyright (c) 2020 The Authors of this project, all of them", "explain", "licence"),
        ("Code automatically autogenerated by a tool, do not edit it at all", "explain", "generated"),
        ("Returns the total of the totals, the total that is the total", "explain", "copy"),
        ("| a | 1 |\n|---|---|\n" + "| 12 | 34 |\n" * 20, "question", "not_language"),
        ("{{ 1 }} == [[ 2 ]] :: // " * 8 + "with few words in between all of these " * 1, "explain", "not_language"),
        ("The password is REDACTED_SECRET and it opens the door of the shop", "explain", "redacted"),
        ("These functions are helpers of the tests and stand in one block", "document", "of_a_group"),
        ("x" * 4000, "complete", "too_long"),
        ("    raise NotImplementedError('this is to be written by somebody else later on')\n", "complete", "trivial"),
        ("Puts the tax on top of the sum of all prices, rounded to cents.", "explain", None),
        ("Legt die Mehrwertsteuer auf die Summe aller Preise, gerundet auf Cent.", "explain", None),
        ("计算购物车中所有商品的总价,并加上税款。结果四舍五入到分。返回一个数字,单位为元,用于结账页面的显示。 价格 列表 税率 商品 总和 结果", "explain", None),
    ],
)  # fmt: skip
def test_answers_that_teach_nothing_are_dropped_with_a_reason(
    output: str, kind: str, reason: str | None
) -> None:
    pair = Pair(kind, "What?", "def total(): …", output, "r", "p", (0, 1), "MIT", "python",
                names="total def total():")  # fmt: skip
    assert reason_against(pair, InstructionOptions()) == reason


def test_duplicates_boilerplate_and_more_than_wanted_are_counted(tmp_path: Path) -> None:
    same = 'def f{n}():\n    """Handle one message of the queue as the protocol says it."""\n    return g{n}(1)\n'
    documents = [
        document(f"a{n}.py", "".join(same.format(n=10 * n + k) for k in range(2))) for n in range(3)
    ]
    pairs, counts = asked([*documents, replace(documents[0], path="copy.py", id="x")], tmp_path)
    assert not pairs
    assert (counts.dropped["boilerplate"], counts.dropped["duplicate"]) == (12, 4)
    few, counts = asked(documents, tmp_path, most_repeats=99, most_of_a_kind=2)
    assert counts.kinds == {"explain": 2, "document": 2}
    assert counts.dropped["over_the_limit"] == 8
    assert few == asked(documents, tmp_path, most_repeats=99, most_of_a_kind=2)[0]


def test_no_kind_swamps_the_others(tmp_path: Path) -> None:
    def pair(kind: str, number: int) -> Pair:
        text = f"{kind} {number:06}" + "-" * 90
        return Pair(kind, "What?", "", text, "r", "p", (number, number), "MIT", "python")

    def chosen(share: float, others: int) -> tuple[Counter[str], int]:
        options = InstructionOptions(most_share=share)
        with Pool(tmp_path / "pool", 0, options) as pool:
            for kind, count in (("commit", 400), ("explain", others), ("question", others)):
                for number in range(count):
                    pool.add(pair(kind, number))
            return Counter(found.kind for found in pool.chosen()), pool.dropped["over_the_share"]

    kinds, dropped = chosen(0.5, 75)
    assert kinds["explain"] == kinds["question"] == 75
    assert 145 <= kinds["commit"] <= 155 and kinds["commit"] + dropped == 400
    assert chosen(0.75, 75) == ({"commit": 400, "explain": 75, "question": 75}, 0)
    assert chosen(1, 1) == ({"commit": 400, "explain": 1, "question": 1}, 0)
    # Where there is nothing else, the first hundred stay.
    assert chosen(0.5, 0) == ({"commit": 100}, 300)


def test_held_out_text_never_becomes_an_instruction(shop: list[Document], tmp_path: Path) -> None:
    held = WindowSet([telling_windows(CART[CART.index("def total_weight") :]).hashes])
    made = InstructionMaker(
        lambda: iter([shop]), 0, None, InstructionOptions(), Workers(1), held_out=held
    )
    counts = made.write(tmp_path)
    assert counts.dropped["held_out"] >= 2
    assert not any(
        "rounded = round" in p.output + p.input for p in read_pairs(tmp_path / "sft.jsonl")
    )


def test_the_seed_decides_how_a_question_is_put(shop: list[Document], tmp_path: Path) -> None:
    def questions(seed: int) -> list[str]:
        maker = InstructionMaker(lambda: iter([shop]), seed, None, InstructionOptions(), Workers(1))
        return [pair.instruction for pair in maker.pairs(tmp_path)]

    assert questions(0) == questions(0) != questions(1)


def test_both_files_hold_the_same(shop: list[Document], tmp_path: Path) -> None:
    pairs, counts = asked(shop, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert all(
        line.keys() == {"instruction", "input", "output", "kind", "language", "source"}
        for line in lines
    )
    assert lines[0]["source"].keys() == {"repo", "commit", "path", "span", "licence"}
    readable = json.loads((tmp_path / "sft_readable.json").read_text())
    assert {kind: len(entries) for kind, entries in readable.items()} == counts.kinds
    shown = [entry for entries in readable.values() for entry in entries]
    assert ["\n".join(entry["output"]) for entry in shown] == [pair.output for pair in pairs]
    assert not list(tmp_path.glob(".candidates*"))
    assert asked([], tmp_path)[1].summary()["instructions"] == {}
    assert json.loads((tmp_path / "sft_readable.json").read_text()) == {}


@given(
    st.lists(st.sampled_from("abc\n"), max_size=40), st.lists(st.sampled_from("abc\n"), max_size=40)
)
def test_a_diff_holds_every_change(old: list[str], new: list[str]) -> None:
    before, after = "".join(old).split("\n"), "".join(new).split("\n")
    text, _, _ = unified(before, after, "a.py")
    assert (text == "") == (before == after)
    if not text:
        return
    result, at = list(before), 0
    for line in text.split("\n")[2:]:  # apply it as `patch` does
        if line.startswith("@@"):
            start = int(line.split("+")[1].split(",")[0].split(" ")[0])
            count = line.split("+")[1].split(" ")[0].partition(",")[2]
            at = start if count == "0" else start - 1
        elif line.startswith("-"):
            assert result.pop(at) == line[1:]
        elif line.startswith("+"):
            result.insert(at, line[1:])
            at += 1
        else:
            assert result[at] == line[1:]
            at += 1
    assert result == after
    assert "@@" not in unmarked("Change it\n" + text)
    assert unmarked("no diff") == "no diff"


@given(
    st.text(min_size=1), st.text(), st.text(min_size=1), st.sampled_from(["explain", "commit"]),
    st.none() | st.text(),
)  # fmt: skip
def test_a_row_of_the_file_is_the_pair(
    instruction: str, given_: str, output: str, kind: str, commit: str | None
) -> None:
    pair = Pair(kind, instruction, given_, output, "r", "p", (1, 2), "MIT", "c", commit)
    again = Pair.of_row(json.loads(json.dumps(pair.row(), ensure_ascii=False)))
    assert again == pair
    assert again.id == pair.id
    assert pair.example().messages[1] == {"role": "assistant", "content": output}  # type: ignore[index]


def many(count: int = 12) -> list[Document]:
    """Enough documents that some are held out, each with docs and a test of its own."""
    made = [document(f"src/m{n}.py", code(n)) for n in range(count)]
    for n in range(count):
        text = README.replace("Shop", f"Part {n}").replace("installer", f"installer number {n}")
        made.append(document(f"docs/p{n}.md", text, language="markdown"))
    return made


def dataset(folder: Path, **options: Any) -> Artifact:
    """In the tiny base's window of 256 tokens, a third of the answers do not fit."""
    return built(folder, many(), use_sft=True, **({"refused_at_most": 0.5} | options))


def test_the_stream_stands_in_examples_tokens_and_validation(tmp_path: Path) -> None:
    made = dataset(tmp_path)
    summary = made.summary
    assert summary["examples"]["sft"] == sum(summary["instructions"].values()) - sum(
        summary["instructions_refused"].values()
    )
    assert summary["tokens_by_stream"]["sft"] > 0
    assert summary["leaked"] == 0
    examples = [one for one in read_examples(made / "examples.parquet") if one.stream == "sft"]
    assert len(examples) == summary["examples"]["sft"]
    assert {one.kind for one in examples} <= set(summary["instructions"])
    store = TokenStore.open(made / "tokens")
    renderer = Renderer.from_folder(tmp_path / "base-qwen")
    number = int(np.flatnonzero(store.streams == STREAMS.index("sft"))[0])
    ids, loss = store[number][0], store.loss(number)
    learned = renderer.decode_bytes(ids[loss].tolist()).decode()
    assert examples[0].messages is not None
    assert examples[0].messages[1]["content"] in learned
    assert examples[0].messages[0]["content"] not in learned
    validation = TokenStore.open(made / "validation")
    assert STREAMS.index("sft") in validation.streams
    assert all(decoded(validation, renderer, 0, len(validation)))


def test_held_out_instructions_come_from_held_out_files(tmp_path: Path) -> None:
    made = dataset(tmp_path)
    held = rows(made, "heldout_sft.parquet")
    assert len(held) == made.summary["heldout_sft"] > 0
    trained = {pair.path for pair in read_pairs(made / "sft.jsonl")}
    assert not {row["path"] for row in held} & trained
    assert {row["split"] for row in held} <= {"time", "file"}


def test_two_held_out_versions_of_a_file_are_told_apart(tmp_path: Path) -> None:
    """The past version is scored whole, of the present one a few characters."""
    past = document("shop/cart.py", CART, present=False)
    present = document("shop/cart.py", code("cart"), past=False)
    scored = [
        Scored(Candidate(one, split, regions, whole=False), regions, None, None)  # type: ignore[arg-type]
        for one, split, regions in (
            (past, "file", [(0, len(CART))]),
            (present, "time", [(0, 5)]),
        )
    ]
    recipe: Any = SimpleNamespace(commit=None)
    made = Instructions(tmp_path, DatasetOptions(), recipe, Workers(1), Review(), Progress())
    made._hold_out(tmp_path, Purged(scored))
    held = rows(Artifact(tmp_path, "dataset", "", {}, {}), "heldout_sft.parquet")
    assert {row["split"] for row in held} == {"file"}
    assert any("Add up the prices" in row["output"] for row in held)


def test_the_same_seed_gives_the_same_instructions_in_any_number_of_processes(
    tmp_path: Path,
) -> None:
    one = dataset(tmp_path / "one")
    two = dataset(tmp_path / "two", processes=2)
    for name in ("sft.jsonl", "sft_readable.json", "heldout_sft.parquet", "tokens/tokens.bin"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_instructions_alone_can_be_trained_on(tmp_path: Path) -> None:
    made = dataset(tmp_path, use_ntp=False, use_fim=False)
    assert made.summary["examples"] == {
        "ntp": 0, "fim": 0, "sft": made.summary["examples"]["sft"],
    }  # fmt: skip
    assert made.summary["examples"]["sft"] > 0
    bare = [
        document(f"m{n}.py", "\n".join(f"a{n}_{k} = {k} * b{n}" for k in range(300)))
        for n in range(9)
    ]
    with pytest.raises(DatasetError, match="No instruction could be made"):
        built(tmp_path / "bare", bare, use_sft=True, use_ntp=False, use_fim=False)


def test_general_code_goes_along_by_the_text_that_is_learned(tmp_path: Path) -> None:
    """Which is not the files, where only instructions made of them are learned."""
    only = {"use_ntp": False, "use_fim": False, "instructions": {"kinds": ["question"]}}
    made = dataset(tmp_path, replay_share=0.5, **only)
    learned = sum(pair.size for pair in read_pairs(made / "sft.jsonl"))
    wanted = replay_documents(learned, seed=0)
    assert made.summary["replay"]["bytes"] == sum(len(one.text.encode()) for one in wanted) > 0


def test_too_many_own_instructions_that_do_not_fit_stop_the_build(tmp_path: Path) -> None:
    """Also where nothing else is wanted: the reason is not that none could be made."""
    for number, more in enumerate(({}, {"use_ntp": False, "use_fim": False, "window": 64})):
        with pytest.raises(DatasetError, match=r"of \d+ .* 'sft' .* does not fit the window"):
            dataset(tmp_path / str(number), refused_at_most=0.1, **more)


def test_a_template_that_refuses_every_instruction_stops_the_build(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen", chat_template="{{ raise_exception('no') }}")
    options = DatasetOptions.load({"replay_share": 0, "use_sft": True}, "test")
    cleaned = corpus(tmp_path / "corpus", many())
    with pytest.raises(DatasetError, match="'sft' cannot be trained on: template: "):
        build(cleaned, REPOSITORY, base, options, tmp_path, Progress(), workers=Workers(1))


def test_what_a_review_drops_is_not_refused(tmp_path: Path) -> None:
    made = dataset(tmp_path)
    gone = [one.id for one in read_examples(made / "examples.parquet") if one.stream == "sft"]
    review = tmp_path / "review.jsonl"
    for name in gone[:-1]:
        append_decision(review, Decision(name, "drop"))
    again = dataset(tmp_path, review=str(review), refused_at_most=0.97)
    assert again.summary["instructions_refused"]["a review dropped it"] == len(gone) - 1


def test_a_review_holds_for_the_files_that_people_hand_on(tmp_path: Path) -> None:
    before = dataset(tmp_path)
    one, two, three, *_ = read_pairs(before / "sft.jsonl")
    asked = {"role": "user", "content": f"{one.instruction}\n\nnew input"}
    better = {"role": "assistant", "content": "Better."}
    told = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}, better)
    review = tmp_path / "review.jsonl"
    append_decision(review, Decision(one.id, "edit", messages=(asked, better)))
    append_decision(review, Decision(two.id, "drop"))
    append_decision(review, Decision(three.id, "edit", messages=told))
    after = dataset(tmp_path, review=str(review))
    lines = [json.loads(line) for line in (after / "sft.jsonl").read_text().splitlines()]
    assert lines[0] == one.row() | {"input": "new input", "output": "Better."}
    edited = {"instruction": "Why?", "input": "", "output": "Better.", "system": "Be brief."}
    assert lines[1] == three.row() | edited
    assert len(lines) == sum(before.summary["instructions"].values()) - 1
    readable = json.loads((after / "sft_readable.json").read_text())
    shown = [row for rows in readable.values() for row in rows]
    assert [row["output"] for row in shown] == [line["output"].split("\n") for line in lines]
    assert shown[1]["system"] == "Be brief."
    examples = {one.id: one for one in read_examples(after / "examples.parquet")}
    assert two.id not in examples
    assert not (after / ".made.jsonl").exists()
    append_decision(review, Decision(one.id, "edit", messages=(asked, better, asked)))
    with pytest.raises(DatasetError, match=r"review.jsonl, row 4, field 'messages': .* alpaca"):
        dataset(tmp_path, review=str(review))
    with pytest.raises(DatasetError, match=r"review.jsonl, row 4, field 'messages': .* alpaca"):
        check_decisions(read_decisions(review), before.path)


def asking(kind: str, instruction: str, given: str) -> Pair:
    return Pair(kind, instruction, given, "It adds 7.", "r", "a.py", (0, 9), "MIT", "python")


def test_what_the_window_takes_out_of_a_prompt_is_counted_or_refused(tmp_path: Path) -> None:
    """Of a commit, the middle is what changes; of a question, nothing can be left out."""
    recipe: Any = SimpleNamespace(template="auto", window=128)
    encode = Encoding(write_base(tmp_path, "qwen"), recipe, Review())
    lines = "".join(f"value_{n} = {n}\n" for n in range(60))
    asked = "What does `add` do?"
    short = encode([asking(kind, asked, "add(7)") for kind in ("explain", "commit")])
    assert (short.kinds, short.refused, short.shortened) == ({"explain": 1, "commit": 1}, {}, {})
    made = encode([asking("explain", asked, lines), asking("commit", asked, lines)])
    assert made.kinds == {"explain": 1}
    assert made.refused == {"its change would be cut out of the input": 1}
    assert made.shortened["conversations"] == 1
    assert 0 < made.shortened["characters"] < len(lines)
    made = encode([asking("explain", asked + lines, "add(7)"), asking("question", lines, "")])
    assert made.refused == {"the question does not fit the window": 2}


def test_what_was_shortened_stands_in_the_summary_and_in_mix_json(tmp_path: Path) -> None:
    made = dataset(tmp_path, window=176, refused_at_most=1)
    (sft,) = [
        stream
        for stream in json.loads((made / "mix.json").read_text())["streams"]
        if stream["name"] == "sft"
    ]
    assert sft["shortened"] == made.summary["instructions_shortened"]
    assert sft["shortened"]["conversations"] > 0


def test_changes_that_would_be_cut_do_not_stop_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [asking("commit", f"Change {n}.", f"value = {n}\n" * 90) for n in range(500)]
    monkeypatch.setattr(Instructions, "training", lambda *_: iter(changes))
    made = dataset(tmp_path, refused_at_most=0)
    assert made.summary["instructions_refused"] == {"its change would be cut out of the input": 500}


def test_data_names_the_streams() -> None:
    assert data_settings(None) == {}
    assert data_settings("ntp, sft") == {
        "dataset.use_ntp": True, "dataset.use_fim": False, "dataset.use_sft": True,
    }  # fmt: skip
    for wrong in ("ntp,chat", "", ","):
        with pytest.raises(ConfigError, match="is not a stream"):
            data_settings(wrong)


def test_an_answer_that_stands_in_the_question_is_a_copy() -> None:
    body = "    amount = price * rate\n    rounded = round(amount, 2)\n    return rounded"
    pair = Pair("complete", "Complete it.", f"def f():\n{body}\n", body, "r", "p", (0, 1), "MIT", "python")  # fmt: skip
    assert reason_against(pair, InstructionOptions()) == "copy"
    asked_fairly = replace(pair, input="def f():")
    assert reason_against(asked_fairly, InstructionOptions()) is None
