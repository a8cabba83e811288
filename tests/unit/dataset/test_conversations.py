"""Conversations as tokens: what is decoded out of a token store is what was to be learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.dataset.conversations import Conversations, Encoded, Refused
from codetune.errors import ModelError
from codetune.models.prompts import Renderer, UntrackableError
from codetune.models.tokens import TokenStore, TokenWriter
from codetune.records import Example, Provenance
from tests.unit.models.tiny_families import renderer, write_base

SOURCE = Provenance("host/team/shop", None, "a.jsonl", (1, 1), "MIT")
LINES = "".join(f"value_{n} = {n}\n" for n in range(60))


def example(*turns: str, system: str = "") -> Example:
    """Turns of user and assistant, the user first."""
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return Example(id="1", stream="sft", source=SOURCE, messages=tuple(messages))


def learned(base: Renderer, done: Encoded | Refused) -> str:
    assert isinstance(done, Encoded)
    return base.decode(done.ids[done.loss].tolist(), keep_control=True)


def test_loss_on_answers_alone() -> None:
    base = renderer("qwen")
    done = Conversations(base, 256).encode(example("one?", "1", "two?", "2", system="Short."))
    assert learned(base, done) == "1<|im_end|>2<|im_end|>"
    assert isinstance(done, Encoded)
    assert done.ids.dtype == np.uint32
    assert done.loss.dtype == np.bool_
    assert (done.turns_cut, done.answers_cut, done.characters_cut) == (0, 0, 0)


def test_what_nobody_answers_is_left_out() -> None:
    base = renderer("qwen")
    made = Conversations(base, 256)
    one, more = made.encode(example("a", "b")), made.encode(example("a", "b", "and now?"))
    assert isinstance(one, Encoded)
    assert isinstance(more, Encoded)
    assert one.ids.tolist() == more.ids.tolist()


def test_the_oldest_turns_go_first() -> None:
    base = renderer("qwen")
    turns = [text for n in range(12) for text in (f"question {n}?", f"answer {n}")]
    done = Conversations(base, 128).encode(example(*turns, system="Keep this."))
    assert isinstance(done, Encoded)
    assert len(done.ids) <= 128
    text = base.decode(done.ids.tolist())
    assert "Keep this." in text
    assert "question 0?" not in text
    assert "question 11?" in text
    assert done.turns_cut == 2 * done.answers_cut > 0
    assert learned(base, done).count("answer") == 12 - done.answers_cut


def test_a_long_question_loses_its_middle() -> None:
    base = renderer("qwen")
    question = f"Explain this:\n{LINES}What is value_3?"
    done = Conversations(base, 128).encode(example(question, "three"))
    assert learned(base, done) == "three<|im_end|>"
    assert isinstance(done, Encoded)
    text = done.messages[0]["content"]
    assert text.startswith("Explain this:\n")
    assert text.endswith("\nWhat is value_3?")
    assert "\n…\n" in text
    assert done.characters_cut == len(question) - len(text)
    assert len(done.ids) <= 128


def test_an_answer_is_never_cut() -> None:
    made = Conversations(renderer("qwen"), 128)
    assert made.encode(example("x?", LINES)) == Refused("the answer does not fit the window")
    assert made.encode(example(LINES, LINES)) == Refused("the answer does not fit the window")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ((), "no messages"),
        (("only asked",), "no answer"),
        (("asked", " \n"), "an empty answer"),
    ],
)
def test_what_cannot_be_learned_is_refused(turns: tuple[str, ...], reason: str) -> None:
    assert Conversations(renderer("qwen"), 128).encode(example(*turns)) == Refused(reason)


def test_an_answer_without_a_question_is_refused() -> None:
    alone = Example("1", "sft", SOURCE, messages=({"role": "assistant", "content": "Hi."},))
    assert Conversations(renderer("qwen"), 128).encode(alone) == Refused("no question")


@settings(max_examples=80, deadline=None)
@given(
    turns=st.lists(st.text(st.sampled_from("ab \n é🙂<|im_end|>")), min_size=2, max_size=8),
    window=st.integers(24, 160),
    template=st.sampled_from(["chatml", "alpaca", "plain"]),
)
def test_every_answer_is_whole_or_gone(turns: list[str], window: int, template: str) -> None:
    base = renderer("qwen").with_template(template)  # type: ignore[arg-type]
    done = Conversations(base, window).encode(example(*turns))
    if isinstance(done, Refused):
        return
    assert len(done.ids) <= window
    kept = [m["content"] for m in done.messages if m["role"] == "assistant"]
    answers = turns[1::2]
    assert kept == answers[done.answers_cut :]
    text = base.decode(done.ids[done.loss].tolist())
    blank = " " if template == "plain" else ""
    assert text == "".join(blank + answer for answer in kept)
    assert done.ids[-1] in base.chat_stops
    assert done.loss[-1]
    assert np.isin(done.ids[done.loss], sorted(base.chat_stops)).sum() == len(kept)


def test_what_a_store_says_is_learned(tmp_path: Path) -> None:
    base = renderer("qwen")
    made = Conversations(base, 256)
    with TokenWriter(tmp_path, base.vocab_size, streams=["public"]) as writer:
        writer.append(base.plain("x = 1"), stream="ntp", document=0)
        for number in range(3):
            done = made.encode(example(f"q{number}", f"a{number}", "more", f"b{number}"))
            assert isinstance(done, Encoded)
            writer.append(done.ids, stream="public", document=1 + number, loss=done.loss)
        writer.append(base.plain("y = 2"), stream="fim", document=4, loss_from=2)
    store = TokenStore.open(tmp_path)
    texts = [
        base.decode(store[n][0][store.loss(n)].tolist(), keep_control=True)
        for n in range(len(store))
    ]
    assert texts == [
        "x = 1",
        "a0<|im_end|>b0<|im_end|>",
        "a1<|im_end|>b1<|im_end|>",
        "a2<|im_end|>b2<|im_end|>",
        base.decode(base.plain("y = 2")[2:]),
    ]
    assert [store.stream_names[n] for n in store.streams] == ["ntp", *["public"] * 3, "fim"]
    assert store[1][1] == int(np.argmax(store.loss(1)))


def test_serving_reads_what_training_refuses(tmp_path: Path) -> None:
    """A template may refuse the beginning of a conversation that it takes as a whole."""
    template = (
        "{% if messages | length == 2 %}{{ raise_exception('too short') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    base = Renderer.from_folder(write_base(tmp_path, "qwen", chat_template=template))
    messages = [
        {"role": "system", "content": "Short."},
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": "b"},
    ]
    assert base.decode(base.chat(messages)) == "system: Short.\nuser: a?\nassistant: b\n"
    with pytest.raises(ModelError, match="too short"):
        base.conversation(messages)


def test_a_template_that_hides_its_answers_is_refused(tmp_path: Path) -> None:
    hides = {
        "upper": "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "first letter": "{% for m in messages %}{{ m.content[0] }}{% endfor %}",
        "drops": "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}"
        "{% endfor %}",
        "thinks": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
        "marks one": "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    }
    for name, template in hides.items():
        base = Renderer.from_folder(write_base(tmp_path / name, "qwen", chat_template=template))
        messages = example("Ask", "answer", "Again", "reply").messages
        assert messages is not None
        if name == "upper":  # every letter is changed, and the marks stay where they are
            assert base.conversation(messages)[1].any()
            continue
        with pytest.raises(UntrackableError, match="does not show its answers"):
            base.conversation(messages)
        assert base.chat(messages)  # serving needs no answers
        done = Conversations(base, 128).encode(example("Ask", "answer", "Again", "reply"))
        assert isinstance(done, Refused)
        assert done.reason.startswith("template: ")
