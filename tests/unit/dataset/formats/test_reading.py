"""Files as they are found: every layout, every kind of damage, each named by file, row, field."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from codetune.dataset.formats import Problems, digest_of_set, left_out_of, read_set
from codetune.errors import DatasetError

GOOD = {"instruction": "Add", "output": "a + b"}
ROWS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "alpaca with turns": {"instruction": "q2", "output": "a2", "history": [["q", "a"]]},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "messages": {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    },
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"role": "assistant", "content": "a"},
        ]
    },
    "columns": {"messages": {"role": ["user", "assistant"], "content": ["q", "a"]}},
    "prompt": {"prompt": "q", "completion": "a"},
    "prompt of messages": {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
    },
}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return path


def pairs(path: Path, **options: Any) -> list[tuple[str, str]]:
    found = []
    for one in read_set(path, **options):
        assert one.messages is not None
        found.append((one.messages[-2]["content"], one.messages[-1]["content"]))
    return found


def problems_of(path: Path, **options: Any) -> list[str]:
    found = Problems(stop=False)
    list(read_set(path, problems=found, **options))
    return [str(problem) for problem in found.first]


@pytest.mark.parametrize("name", ROWS)
def test_layouts(name: str, tmp_path: Path) -> None:
    row = ROWS[name] | {"id": 7, "source": None}
    expected = [("q2", "a2")] if "turns" in name else [("q", "a")]
    assert pairs(lines(tmp_path / "a.jsonl", row)) == expected
    (tmp_path / "a.json").write_text(json.dumps([row], indent=2))
    assert pairs(tmp_path / "a.json") == expected


def test_columns_by_name(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"meta": {"question": "q"}, "answer": "a"})
    columns = {"instruction": "meta.question", "output": "answer"}
    assert pairs(path, columns=columns) == [("q", "a")]
    with pytest.raises(DatasetError, match=r"No format fits the columns meta, answer\.") as error:
        pairs(path)
    assert "--column instruction=question" in error.value.advice
    with pytest.raises(DatasetError) as error:
        pairs(path, columns={"instrucsion": "q"})
    assert "instruction" in error.value.advice
    assert problems_of(path, columns=columns | {"output": "reply"}, format="alpaca") == [
        "a.jsonl, row 1, field 'reply': is missing"
    ]


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    deep = "[" * 200_000
    path = lines(
        tmp_path / "a.jsonl",
        GOOD,
        GOOD | {"output": " \n"},
        '{"instruction": "Add", "outp',
        "",
        GOOD | {"output": 7},
        [1, 2],
        '{"instruction": ' + deep + "}",
        {"instruction": "Add"},
        GOOD | {"output": "\ud83d"},
        GOOD | {"history": [["only one"]]},
        GOOD,
    )
    found = problems_of(path)
    expected = [
        "row 2, field 'output': is empty",
        "row 3: is not JSON: Unterminated string",
        "row 5, field 'output': is a int, and text was expected",
        "row 6: is a list, and an object was expected",
        "row 7: is nested too deeply",
        "row 8, field 'output': is missing",
        "row 9, field 'output': holds half of a surrogate pair",
        "row 10, field 'history': turn 1 is no pair",
    ]
    assert len(found) == len(expected)
    for message, start in zip(found, expected, strict=True):
        assert message.startswith(f"a.jsonl, {start}")
    assert len(list(read_set(path, problems=Problems(stop=False)))) == 2
    with pytest.raises(DatasetError, match="8 problems") as error:
        list(read_set(path))
    assert "skip_bad" in error.value.advice


def test_enough_problems_end_the_reading(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, *[GOOD | {"output": ""}] * 50)
    with pytest.raises(DatasetError, match="At least 5 problems") as error:
        list(read_set(path, problems=Problems(5)))
    assert error.value.message.count("is empty") == 5
    counted = Problems(5, stop=False)
    list(read_set(path, problems=counted))
    assert (counted.total, len(counted.first)) == (50, 5)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "field 'messages': is empty"),
        (["hi"], r"messages\[1\]': is a str"),
        ([{"role": "narrator", "content": "x"}], r"messages\[1\]': has the role 'narrator'"),
        ([{"role": "user", "content": "x"}], "holds no answer"),
        ([{"role": "user", "content": ""}], r"messages\[1\].content': is empty"),
        ([{"from": "gpt", "value": " "}], r"messages\[1\].value': is empty"),
        ([{"role": "user", "content": [{"type": "image"}]}], "type 'image'"),
        ([{"role": "assistant", "tool_calls": [1]}], "tool calls and no text"),
    ],
)
def test_bad_turns(turns: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        list(read_set(lines(tmp_path / "a.jsonl", {"messages": turns})))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_encodings_that_say_what_they_are(encoding: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    text = {
        "jsonl": json.dumps({"prompt": "Grüße 你好", "completion": "é"}, ensure_ascii=False) + "\n",
        "json": json.dumps([{"prompt": "Grüße 你好", "completion": "é"}], ensure_ascii=False),
        "csv": 'prompt,completion\r\n"Grüße 你好",é\r\n',
    }[suffix]
    path.write_bytes(text.encode(encoding))
    assert pairs(path) == [("Grüße 你好", "é")]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "txt"])
def test_latin_1_is_refused_unless_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    row = json.dumps({"prompt": "Grüße", "completion": "é"}, ensure_ascii=False)
    text = {"jsonl": f"{row}\n", "json": f"[\n{row}]", "csv": "prompt,completion\nGrüße,é\n"}
    path.write_bytes(text.get(suffix, "Grüße").encode("latin-1"))
    row_number = {"json": ", row 2", "jsonl": ", row 1", "csv": ", row 2", "txt": ""}[suffix]
    with pytest.raises(DatasetError, match=rf"{path.name}{row_number}: byte 0xfc .* not UTF-8"):
        list(read_set(path))
    if suffix != "txt":
        assert pairs(path, encoding="latin-1") == [("Grüße", "é")]
    with pytest.raises(DatasetError, match="no encoding 'klingon'"):
        list(read_set(path, encoding="klingon"))


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", "U8"])
def test_utf_8_may_be_named(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("prompt,completion\nq,a\n".encode("utf-8-sig"))
    assert pairs(path, encoding=encoding) == [("q", "a")]
    path.write_bytes("prompt,completion\nq,a\nq,\xfc\n".encode("latin-1"))
    (problem,) = problems_of(path, encoding=encoding)
    assert problem.startswith("a.csv, row 3: byte 0xfc")


def test_utf_16_without_a_mark_and_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes((json.dumps(GOOD) + "\n").encode("utf-16-le"))
    with pytest.raises(DatasetError, match="UTF-16") as error:
        list(read_set(path))
    assert "utf-16-le" in error.value.advice
    assert pairs(path, encoding="utf-16-le") == [("Add", "a + b")]
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(64) + b"abc" * 99)
    with pytest.raises(DatasetError, match=r"zero bytes|not JSON"):
        list(read_set(path))
    path.write_text("hello there")
    with pytest.raises(DatasetError, match="not JSON"):
        list(read_set(path))


@pytest.mark.parametrize(
    ("text", "read", "problem"),
    [
        (' \n[\n {"text": "a"} ,\n {"text": "b"}\n]\n', 2, ""),
        ('[{"text": "a"}, {"text": ', 1, "row 1: is not JSON"),
        ('[{"text": "a"},\n\n{"text" "b"}]', 1, "row 3: is not JSON"),
        ('[{"text": "a"}', 1, "row 1: is not JSON"),
        ('[{"text": "a"}, 7, {"text": "c"}]', 2, "row 1: is a int"),
        ('[{"text": "a"}]\n\n[{"text": "b"}]', 1, "row 3: stands behind the end of the array"),
        ('[{"text": "a"}]' + " " * 100_000 + "x", 1, "row 1: stands behind the end"),
        ("[" * 100_000, 0, "row 1: is nested too deeply"),
    ],
)
def test_json_arrays(text: str, read: int, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    problems = Problems(stop=False)
    assert len(list(read_set(path, problems=problems))) == read
    assert problems.total == bool(problem)
    assert all(str(p).startswith(f"a.json, {problem}") for p in problems.first)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n\n"),
        ("a.json", "[]"),
        ("a.csv", ""),
        ("a.csv", "prompt,completion\n"),
    ],
)
def test_a_set_without_rows(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(DatasetError, match=r"holds no rows\."):
            list(read_set(path, problems=Problems(stop=False)))
    lines(tmp_path / "b.jsonl", GOOD)  # one of its files may be empty
    assert pairs(tmp_path) == [("Add", "a + b")]


def test_one_object_is_not_a_set(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n "data": [{"text": "a"}]\n}\n')
    with pytest.raises(DatasetError, match="one object, not rows"):
        list(read_set(tmp_path / "a.json"))


def test_a_field_that_stands_twice(tmp_path: Path) -> None:
    twice = '{"prompt": "q", "completion": "a", "completion": "b"}'
    turns = '[{"role": "user", "content": "q", "content": "r"}, {"role": "assistant"}]'
    path = lines(tmp_path / "a.jsonl", GOOD, twice, '{"messages": ' + turns + "}", GOOD)
    said = "stands more than once in an object"
    assert problems_of(path) == [
        f"a.jsonl, row 2, field 'completion': {said}",
        f"a.jsonl, row 3, field 'content': {said}",
    ]
    (tmp_path / "a.json").write_text(f"[{json.dumps(GOOD)},\n{twice},\n{json.dumps(GOOD)}]")
    assert problems_of(tmp_path / "a.json") == [f"a.json, row 2, field 'completion': {said}"]
    assert len(pairs(tmp_path / "a.json", problems=Problems(stop=False))) == 2
    (tmp_path / "a.csv").write_text("prompt,completion,completion\nq,a,b\nq,a,b\n")
    assert problems_of(tmp_path / "a.csv") == [
        "a.csv, row 1, field 'completion': names more than one column"
    ]
    (tmp_path / "b.csv").write_text("prompt,completion,,\nq,a,,\n")
    assert pairs(tmp_path / "b.csv") == [("q", "a")]


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('instruction;output\n"two\nlines";"a;b"\n\nx;y;z\nlast;""\nq;a\n')
    assert problems_of(path) == [
        "a.csv, row 5: has 3 fields, the first line names 2",
        "a.csv, row 6, field 'output': is empty",
    ]
    read = list(read_set(path, problems=Problems(stop=False)))
    assert [one.source.span[0] for one in read] == [2, 7]
    path.write_text('instruction,output\n"open,a\n')
    assert "is not CSV" in problems_of(path)[0]
    path.write_text('instruction,output\nq,"a" e\nq2,a2\nq3,a3\n')
    (problem,) = problems_of(path)
    assert problem.startswith("a.csv, row 2: is not CSV")
    assert problem.endswith("; the 2 lines behind it are not read")
    (tmp_path / "a.tsv").write_text("prompt\tcompletion\nq, really\ta\n")
    assert pairs(tmp_path / "a.tsv") == [("q, really", "a")]


def test_a_first_row_without_a_value_is_one_bad_row(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD | {"output": None}, GOOD)
    assert problems_of(path) == ["a.jsonl, row 1, field 'output': is missing"]
    assert pairs(path, problems=Problems(stop=False)) == [("Add", "a + b")]
    # It does not decide how the others are read.
    empty = {"prompt": None, "completion": None, "text": None}
    path = lines(tmp_path / "b.jsonl", empty, empty | {"text": "a"}, {"text": "b"})
    assert len(list(read_set(path, problems=Problems(stop=False)))) == 2


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(GOOD) + "\n").encode()))
    assert pairs(path) == [("Add", "a + b")]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DatasetError, match="gzip"):
        list(read_set(path))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_damaged_tables(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PAR1" + b"x" * 50)
    with pytest.raises(DatasetError, match=r"not a whole (Parquet|Arrow) file"):
        list(read_set(tmp_path / name))


def test_folders(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    hub = tmp_path / "hub"
    (hub / "data").mkdir(parents=True)
    (hub / "README.md").write_text("# A set")
    for split in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        table = pa.Table.from_pylist([{"prompt": split, "completion": "a"}])
        pq.write_table(table, hub / "data" / f"{split}.parquet")
    assert [q for q, _ in pairs(hub)] == ["train-00000-of-00002", "train-00001-of-00002"]
    before = digest_of_set(hub)
    lines(hub / "data" / "train-2.jsonl", {"prompt": "more", "completion": "a"})
    assert len(pairs(hub)) == 3
    assert digest_of_set(hub) != before
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no training data"):
        pairs(tmp_path / "empty")
    with pytest.raises(
        DatasetError, match=re.escape(f"none.jsonl does not exist in {Path.cwd()}.")
    ):
        list(read_set(Path("none.jsonl")))
    with pytest.raises(DatasetError, match=r"does not exist\."):
        pairs(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (["code.jsonl", "unit-test.jsonl"], []),
        (["train.jsonl", "extra.jsonl"], ["extra.jsonl"]),
        (["train.jsonl.gz", "train_1.jsonl", "val.jsonl"], ["val.jsonl"]),
        (["dolly-train.jsonl", "dolly-test.jsonl", "more.jsonl"], ["dolly-test.jsonl"]),
        (["dolly.jsonl", "dolly_eval.jsonl"], ["dolly_eval.jsonl"]),
        (["train-v1.1.json", "dev-v1.1.json"], ["dev-v1.1.json"]),
        (["test-train-station.jsonl", "airport.jsonl"], []),
        (["train/a.jsonl", "test/a.jsonl", "b.jsonl"], ["b.jsonl", "test/a.jsonl"]),
    ],
)
def test_which_files_are_the_training_split(
    names: list[str], left_out: list[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text = json.dumps({"prompt": name, "completion": "a"}).encode()
        (tmp_path / name).write_bytes(
            gzip.compress(text) if name.endswith("gz") else b"[" + text + b"]"
            if name.endswith(".json") else text
        )  # fmt: skip
    assert {question for question, _ in pairs(tmp_path)} == set(names) - set(left_out)
    assert left_out_of(tmp_path) == left_out


def test_a_folder_without_a_training_split(tmp_path: Path) -> None:
    file = lines(tmp_path / "test.jsonl", GOOD)
    with pytest.raises(DatasetError, match="holds only test and validation files") as error:
        pairs(tmp_path)
    assert str(file) in error.value.advice


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder, answer in (("a", "a"), ("b", "")):
        (tmp_path / folder).mkdir()
        lines(tmp_path / folder / "data.jsonl", GOOD | {"output": answer})
    assert problems_of(tmp_path) == ["b/data.jsonl, row 1, field 'output': is empty"]
    (example,) = read_set(tmp_path, problems=Problems(stop=False))
    assert example.source.path == "a/data.jsonl"


def test_folders_that_datasets_saved(tmp_path: Path) -> None:
    import pyarrow as pa

    saved = tmp_path / "set" / "train"
    saved.mkdir(parents=True)
    table = pa.Table.from_pylist([{"prompt": f"q{n}", "completion": "a"} for n in range(300)])
    with pa.ipc.new_stream(saved / "data-0.arrow", table.schema) as writer:
        writer.write_table(table)
    (saved / "state.json").write_text('{"_data_files": [{"filename": "data-0.arrow"}]}')
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(pairs(tmp_path / "set")) == 300
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["a", "b"]}')
    with pytest.raises(DatasetError, match="no split 'train'; it has a, b"):
        pairs(tmp_path / "set")
    (saved / "state.json").write_text('{"_data_files": [{"filename": "../../etc/passwd"}]}')
    with pytest.raises(DatasetError, match="lacks its file"):
        pairs(saved)


def test_memory_holds_one_row(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "q" * 5000, "completion": "a"})
    count = 2000
    (tmp_path / "a.json").write_text("[" + ",\n".join([row] * count) + "]")
    (tmp_path / "a.jsonl").write_text((row + "\n") * count)
    for name in ("a.json", "a.jsonl"):
        tracemalloc.start()
        assert sum(1 for _ in read_set(tmp_path / name)) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4_000_000, f"{name}: {peak} of {count * len(row)} bytes"
