"""The teacher: what it may change, what happens when it fails, and that nothing is asked twice."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetune.api.app import create_app
from codetune.api.server import Server, listen
from codetune.dataset.instruct.pairs import Pair
from codetune.dataset.teacher.client import FailedRequest
from codetune.dataset.teacher.config import TeacherOptions
from codetune.dataset.teacher.rewording import Teacher, _read
from codetune.errors import ConfigError, TeacherError
from codetune.progress import Progress
from codetune.registry.cards import Registry
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions
from codetune.serving.engines.local import LocalEngine
from tests.unit.dataset.teachers import Reply, chat, dripping, endpoint, late, worded
from tests.unit.serving.tiny_models import make_base


def pair(number: int) -> Pair:
    return Pair(
        "explain",
        f"What does the function `f{number}` from `a.py` do?",
        f"def f{number}(): return {number}",
        f"It returns the number {number}, which the others are compared with.",
        "shop", "a.py", (number, number + 1), "MIT", "python",
    )  # fmt: skip


PAIRS = [pair(number) for number in range(7)]


def teacher(url: str, cache: Path, progress: Progress | None = None, **options: Any) -> Teacher:
    made = TeacherOptions.load({"url": url, "backoff": 0.01, "parallel": 2} | options, "test")
    return Teacher(made, cache, progress or Progress())


class Listening(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def test_instructions_are_worded_in_batches_of_three_and_answers_stay(tmp_path: Path) -> None:
    heard = Listening()
    with endpoint(lambda _, request: worded(request)) as (url, asked):
        made = teacher(url, tmp_path, heard, price_input=1.0, price_output=1.0)
        result = made.reword(PAIRS)
    assert sorted(len(json.loads(r["messages"][-1]["content"])["items"]) for _, r in asked) == [
        1,
        3,
        3,
    ]
    assert [p.instruction for p in result] == [f"Please: {p.instruction}" for p in PAIRS]
    assert [(p.input, p.output, p.span) for p in result] == [
        (p.input, p.output, p.span) for p in PAIRS
    ]
    assert {p.teacher for p in result} == {"nano"}
    assert result[0].row()["source"]["teacher"] == "nano"
    assert made.outcome.summary()["reworded"] == 7
    assert made.outcome.tokens_read == 300
    assert "3 requests" in heard.said[0]
    assert "on this machine" in heard.said[0]
    assert "at the given prices" in heard.said[0]


def test_what_was_worded_is_not_asked_again(tmp_path: Path) -> None:
    with endpoint(lambda _, request: worded(request)) as (url, asked):
        first = teacher(url, tmp_path).reword(PAIRS[:3])
        again = teacher(url, tmp_path)
        assert again.reword(PAIRS[:3]) == first
        assert again.outcome.from_cache == 3
        assert len(asked) == 1
        for file in tmp_path.rglob("*.json"):
            file.write_text('{"instruc')  # a crash of another program
        assert teacher(url, tmp_path).reword(PAIRS[:3]) == first
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ((429, {"retry-after": "0"}, b"{}"), "HTTP 429"),
        ((503, {}, b"busy"), "HTTP 503"),
        ((200, {}, b"{not json"), "no chat completion"),
        (chat("Sure! Here are your questions."), "not JSON"),
        (chat('{"items": [{"id": "one"}]}'), "wrong fields"),
        (chat('{"items": []}'), "other items than asked for"),
    ],
)
def test_a_failure_is_tried_again(tmp_path: Path, first: Reply, reason: str) -> None:
    with endpoint(lambda n, request: first if n == 0 else worded(request)) as (url, asked):
        made = teacher(url, tmp_path)
        assert all(p.teacher for p in made.reword(PAIRS[:3]))
        assert not made.outcome.failed
        assert len(asked) == 2
    with endpoint(lambda *_: first) as (url, asked):
        made = teacher(url, tmp_path / "other", retries=1)
        with pytest.raises(TeacherError, match=rf"worded nothing: {reason} \(3\)"):
            made.reword(PAIRS[:3])
        assert made.outcome.failed == {reason: 3}
        assert len(asked) == 2


def test_a_teacher_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with endpoint(lambda _, r: late(1.0, worded(r))) as (url, asked):
        made = teacher(url, tmp_path, timeout=0.1, retries=1)
        with pytest.raises(TeacherError, match=r"worded nothing: timeout \(2\)"):
            made.reword(PAIRS[:2])
        assert made.outcome.failed == {"timeout": 2}
        assert len(asked) == 2


def test_the_timeout_is_for_the_whole_request(tmp_path: Path) -> None:
    with endpoint(lambda *_: (200, {}, dripping(80, b" ", 0.05))) as (url, _):
        made = teacher(url, tmp_path, timeout=0.3, retries=0)
        started = time.monotonic()
        with pytest.raises(TeacherError, match="timeout"):
            made.reword(PAIRS[:2])
    assert time.monotonic() - started < 2


def test_an_answer_is_read_up_to_the_limit(tmp_path: Path) -> None:
    sent: list[bytes] = []

    def parts() -> Iterator[bytes]:
        for part in dripping(200, b" " * 1_000_000, 0):
            sent.append(part)
            yield part

    large = 200, {}, parts()
    with endpoint(lambda *_: large) as (url, _), pytest.raises(TeacherError, match="too large"):
        teacher(url, tmp_path).reword(PAIRS[:2])
    assert len(sent) < 100


def test_a_failed_batch_leaves_the_others_alone(tmp_path: Path) -> None:
    def answer(_: int, request: dict[str, Any]) -> Reply:
        bad = "`f4`" in request["messages"][-1]["content"]
        return (400, {}, b"{}") if bad else worded(request)

    heard = Listening()
    with endpoint(answer) as (url, asked):
        made = teacher(url, tmp_path, heard)
        result = made.reword(PAIRS)
    failed = made.outcome.failed["HTTP 400"]
    assert 1 <= failed <= 3
    assert f"could not word, which stay as they were: HTTP 400 ({failed})" in heard.said[-1]
    assert sum(not p.teacher for p in result) == failed
    assert not result[4].teacher
    assert len(asked) == 3  # what the endpoint calls wrong is not sent again


def test_a_passing_failure_is_not_taken_for_good(tmp_path: Path) -> None:
    """A finished dataset would hold it for ever: the build stops, and the next one goes on."""

    ill = [True]

    def answer(_: int, request: dict[str, Any]) -> Reply:
        busy = ill and "`f4`" in request["messages"][-1]["content"]
        return (503, {}, b"busy") if busy else worded(request)

    with endpoint(answer) as (url, asked):
        with pytest.raises(TeacherError, match="without an answer: HTTP 503"):
            teacher(url, tmp_path, retries=0).reword(PAIRS)
        assert len(asked) == 3
        ill.clear()
        assert all(one.teacher for one in teacher(url, tmp_path).reword(PAIRS))
        assert len(asked) == 4


def test_a_hopeless_endpoint_stops_the_build(tmp_path: Path) -> None:
    refused = 401, {}, json.dumps({"error": {"message": "bad key"}}).encode()
    with endpoint(lambda *_: refused) as (url, _), pytest.raises(TeacherError, match="bad key"):
        teacher(url, tmp_path).reword(PAIRS)
    with endpoint(lambda *_: chat("no")) as (url, _):
        made = teacher(url, tmp_path, retries=0, batch=1)
        with pytest.raises(TeacherError, match="5 times in a row"):
            made.reword(PAIRS)
    with pytest.raises(TeacherError, match="5 times in a row; the last time: no connection"):
        teacher(url, tmp_path, retries=0, batch=1).reword(PAIRS)


def test_the_key_is_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "k-123")
    with endpoint(lambda _, request: worded(request)) as (url, asked):
        teacher(url, tmp_path, key_variable="TEACHER_KEY").reword(PAIRS[:1])
        assert asked[0][0]["Authorization"] == "Bearer k-123"
        monkeypatch.delenv("TEACHER_KEY")
        with pytest.raises(TeacherError, match="TEACHER_KEY holds no key"):
            teacher(url, tmp_path, key_variable="TEACHER_KEY").reword(PAIRS[1:2])
    assert not any("k-123" in file.read_text() for file in tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "https://api.example.org/v1"}, "not this machine"),
        ({"url": "ftp://here"}, "begins with http"),
        ({"url": "http://me:secret@127.0.0.1/v1"}, "key_variable"),
        ({"url": "http://[/v1"}, "'url' cannot be"),
        ({"url": "http://127.0.0.1:x/v1"}, "'url' cannot be"),
    ],
)
def test_text_leaves_the_machine_only_when_allowed(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TeacherOptions.load(options, "test")
    TeacherOptions.load({"url": "https://api.example.org/v1", "remote": True}, "test")


def test_an_instruction_keeps_the_names_and_gives_no_answer_away() -> None:
    batch = [(5, PAIRS[0])]

    def reply(text: str) -> str:
        return "```json\n" + json.dumps({"items": [{"id": 1, "instruction": text}]}) + "\n```"

    assert _read(reply("Why is `f0` in `a.py`?"), batch) == {5: "Why is `f0` in `a.py`?"}
    with pytest.raises(FailedRequest, match="names left out"):
        _read(reply("Why is this function there?"), batch)
    with pytest.raises(FailedRequest, match="gives the answer away"):
        _read(reply(f"`f0` `a.py` {PAIRS[0].output}"), batch)


@given(st.text(max_size=200) | st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["items", "id", "instruction"]), inner),
).map(json.dumps))  # fmt: skip
def test_no_reply_is_taken_for_an_answer_by_chance(text: str) -> None:
    with pytest.raises(FailedRequest):
        _read(text, [(0, PAIRS[0])])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """codetune's own server with a tiny random model."""
    folder = make_base(tmp_path / "tiny")
    options = ServingOptions(base=str(folder))
    engine = LocalEngine(options)
    completer = Completer(engine, Catalog(Registry(folder / "none"), options.base), options)
    ready = threading.Event()
    with listen("127.0.0.1", 0) as listener:
        server = Server(create_app(completer), engine, ready.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert ready.wait(10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(10)
    engine.close()


def test_our_own_server_is_a_teacher_and_its_nonsense_is_counted(
    served: str, tmp_path: Path
) -> None:
    """A model with random weights answers as OpenAI's API does, but not with JSON."""
    made = teacher(served, tmp_path, model="tiny", retries=1, most=1)
    with pytest.raises(TeacherError, match="worded nothing"):
        made.reword(PAIRS)
    assert sum(made.outcome.failed.values()) == 1
    assert set(made.outcome.failed) <= {"not JSON", "HTTP 400"}
