"""The model that ships: loads everywhere, keeps special tokens special and text plain."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from codetune.models.nano.general import EVALUATION_FILE, REPLAY_FILE, read_general
from codetune.models.nano.network import Lengths, Network
from codetune.models.nano.recipe import ModelRecipe
from codetune.models.nano.story import default_packages
from codetune.models.nano.tokenizer import SPECIAL_TOKENS, load_plain

NANO = default_packages().parent
WEIGHTS = NANO / "weights"
PLAIN = load_plain(WEIGHTS / "tokenizer.json")


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()


def test_transformers_completes_greedily(model):
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    prompt = tokenizer("import os\nimport sys\n\n\ndef main(", return_tensors="pt")
    out = model.generate(prompt["input_ids"], max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(out[0])
    assert text.startswith("import os\nimport sys\n\n\ndef main(")
    assert len(out[0]) > prompt["input_ids"].shape[1]


def test_it_has_learned_python(model):
    # An untrained model gives ln(8192) = 9 nats a token, and the wrong order a higher loss.
    right = "for i in range(10):\n    print(i)\n"
    wrong = "range i 10 in(for):\n i(print    )\n"
    losses = []
    for text in (right, wrong):
        ids = torch.tensor([PLAIN.encode(text).ids])
        with torch.no_grad():
            losses.append(float(model(ids, labels=ids).loss))
    assert losses[0] < 5
    assert losses[0] < losses[1]


def test_the_training_network_is_transformers_qwen2(model):
    network = Network(ModelRecipe()).float()
    state = model.state_dict()
    state.pop("lm_head.weight")
    network.load_state_dict(state)
    ids = torch.tensor(PLAIN.encode("def f(x):\n    return x + 1\n" * 5).ids)
    with torch.no_grad():
        hidden = network(ids, torch.arange(len(ids)), Lengths([len(ids)]))
        logits = hidden @ network.model.embed_tokens.weight.T
        expected = model(ids[None]).logits[0]
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)


def test_special_tokens_are_single_ids_at_the_end():
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    ids = [tokenizer(name)["input_ids"] for name in SPECIAL_TOKENS]
    size = json.loads((WEIGHTS / "config.json").read_text())["vocab_size"]
    assert ids == [[number] for number in range(size - len(SPECIAL_TOKENS), size)]
    assert tokenizer.eos_token == "<|endoftext|>"


def test_special_tokens_inside_source_text_stay_text():
    text = 'STOP = "<|endoftext|>"  # <|fim_prefix|>'
    ids = PLAIN.encode(text).ids
    assert max(ids) < PLAIN.token_to_id("<|endoftext|>")
    assert PLAIN.decode(ids) == text


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_tokenizer_keeps_every_character(text):
    assert PLAIN.decode(PLAIN.encode(text).ids) == text


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("abcdef ghiXYZ_0123456789\n\t\r(){}[]=+-*/#'\".,:;<>|éß中🎉")))
def test_transformers_encodes_as_the_training_did(text):
    tokenizer = _transformers_tokenizer()
    assert tokenizer.encode(text, add_special_tokens=False) == PLAIN.encode(text).ids


def _transformers_tokenizer(cache: dict[str, object] = {}):  # noqa: B006 - loaded once
    if not cache:
        cache["tokenizer"] = AutoTokenizer.from_pretrained(WEIGHTS)
    return cache["tokenizer"]


def test_the_chat_template_needs_no_token_that_nano_has_not_seen():
    tokenizer = _transformers_tokenizer()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "user:\nhi\nassistant:\n"
    answered = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    text = tokenizer.apply_chat_template(answered, tokenize=False)
    assert text == "user:\nhi\nassistant:\nho<|endoftext|>\n"


def test_general_sets_are_disjoint_and_have_notices():
    evaluation = list(read_general(NANO / "general" / EVALUATION_FILE))
    replay = list(read_general(NANO / "general" / REPLAY_FILE))
    assert set(evaluation[0]) == {"repo", "path", "language", "text"}
    files = {(record["repo"], record["path"]) for record in evaluation}
    assert not files & {(record["repo"], record["path"]) for record in replay}
    assert not {r["text"] for r in evaluation} & {r["text"] for r in replay}
    notice = (NANO / "general" / "NOTICE").read_text()
    for name in {record["repo"] for record in evaluation + replay}:
        assert f"\n{name} " in notice


def test_the_folder_is_small():
    assert sum(path.stat().st_size for path in Path(WEIGHTS).iterdir()) < 40_000_000
