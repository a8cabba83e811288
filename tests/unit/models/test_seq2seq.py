"""What an encoder and its decoder are given of an example."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from codetune.models.linear_loss import IGNORE
from codetune.models.load import BaseModel, load_model
from codetune.models.tokens import TokenStore, TokenWriter
from codetune.training.batches import make_batch
from codetune.training.pairs import PairObjective
from tests.unit.models.tiny_architectures import VOCABULARY, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return write_base(tmp_path_factory.mktemp("t5"), "t5")


@pytest.fixture
def objective(base: BaseModel) -> PairObjective:
    return PairObjective(load_model(base.path, dtype=torch.float32))


def pairs(objective: PairObjective, folder: Path, *examples: dict[str, Any]) -> Any:
    with TokenWriter(folder, VOCABULARY) as store:
        for number, example in enumerate(examples):
            store.append(stream="ntp", document=number, **example)
    batch = make_batch(TokenStore.open(folder), range(len(examples)))
    assert objective.mass(batch) == int((objective.pairs(batch).labels != IGNORE).sum())
    return objective.pairs(batch)


def test_prompt_goes_in_and_answer_comes_out(objective: PairObjective, tmp_path: Path) -> None:
    found = pairs(
        objective,
        tmp_path,
        {"ids": [5, 6, 7, 8, 9, 0], "loss_from": 3},
        {"ids": [4, 3, 2], "loss_from": 2},
    )
    # The encoder's text ends with the end token (0), the decoder's begins with its start (0).
    assert found.sources.tolist() == [[5, 6, 7, 0], [4, 3, 0, 0]]
    assert found.mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert found.inputs.tolist() == [[0, 8, 9], [0, 0, 0]]
    assert found.labels.tolist() == [[8, 9, 0], [2, IGNORE, IGNORE]]


def test_file_becomes_prefix_and_continuation(objective: PairObjective, tmp_path: Path) -> None:
    ids = list(range(1, 41))
    found = pairs(objective, tmp_path, {"ids": ids})
    length = int(found.mask.sum()) - 1  # without the end token
    assert 10 <= length <= 30
    assert found.sources[0, :length].tolist() == ids[:length]
    assert found.labels[0].tolist() == ids[length:]


def test_tokens_between_answers_carry_no_loss(objective: PairObjective, tmp_path: Path) -> None:
    import numpy as np

    loss = np.array([0, 0, 1, 1, 0, 0, 1], dtype=bool)
    found = pairs(objective, tmp_path, {"ids": [1, 2, 3, 4, 5, 6, 7], "loss": loss})
    assert found.labels[0].tolist() == [3, 4, IGNORE, IGNORE, 7]


def test_scored_and_trained_on_are_the_same(objective: PairObjective, tmp_path: Path) -> None:
    """Bits per byte of a target, given its source, are what training makes smaller."""
    from codetune.evaluation.likelihood import Window, _window_nats

    with TokenWriter(tmp_path, VOCABULARY) as store:
        for number, (ids, start) in enumerate([([5, 6, 7, 8, 9, 3], 3), ([4, 3, 2], 2)]):
            store.append(ids=ids, loss_from=start, stream="ntp", document=number)
    store = TokenStore.open(tmp_path)
    trained = [objective.summed(make_batch(store, [number]))[0] for number in range(2)]
    rows = [Window(0, [5, 6, 7, 8, 9, 3], 3), Window(1, [4, 3, 2], 2)]
    assert _window_nats(objective.model, rows) == pytest.approx(trained, rel=1e-4)


def test_the_server_writes_what_transformers_writes(base: BaseModel, tmp_path: Path) -> None:
    """The base and an adapter in turns, each greedily, token by token."""
    from peft import LoraConfig, get_peft_model

    from codetune.models.load import load_adapter
    from codetune.serving.engine import Job, Sampling, Servable
    from codetune.serving.engines.foreign import TransformersRunner
    from codetune.serving.engines.sequence import Sequence

    torch.manual_seed(1)
    lora = LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q", "v"])
    made: Any = get_peft_model(load_model(base.path, dtype=torch.float32), lora)
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    made.save_pretrained(tmp_path / "adapter")
    digest = json.dumps({"name": base.name, "digest": base.digest})
    (tmp_path / "adapter" / "base.json").write_text(digest)

    def wanted(model: Any) -> list[int]:
        given = torch.tensor([[5, 6, 7, 0]])  # with the end token, as in training
        output = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=6,
            do_sample=False, eos_token_id=None,
        )  # fmt: skip
        return [int(token) for token in output[0, 1:]]

    plain = load_model(base.path, dtype=torch.float32)
    truths = {"base": wanted(plain)}
    truths["adapter"] = wanted(load_adapter(plain, tmp_path / "adapter"))
    assert truths["base"] != truths["adapter"]
    runner = TransformersRunner(
        base.path, torch.float32, torch.device("cpu"), rows=2, cache_bytes=10**9
    )
    plain_model = Servable(id="base", kind="base", folder=base.path, base=base)
    tuned = Servable(id="adapter", kind="adapter", folder=tmp_path / "adapter", base=base)
    runner.load_adapter(tuned.folder, base, tuned.key)

    async def answers() -> dict[str, list[int]]:
        found = {}
        for kind, model in (("base", plain_model), ("adapter", tuned)):
            sampling = Sampling(max_tokens=6)
            found[kind] = Sequence(
                Job(model=model, prompt=[5, 6, 7], sampling=sampling, decode=str)
            )
            assert runner.admit(found[kind])
        for sequence in found.values():
            logits = runner.prefill(sequence)
            assert logits is not None
            sequence.ids.append(int(logits.argmax()))
        for _ in range(5):
            both = list(found.values())
            for sequence, row in zip(both, runner.decode(both), strict=True):
                sequence.ids.append(int(row.argmax()))
        return {kind: sequence.ids[3:] for kind, sequence in found.items()}

    with torch.inference_mode():
        assert asyncio.run(answers()) == truths
