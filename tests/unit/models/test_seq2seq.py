"""What an encoder and its decoder are given of an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from codetune.errors import ModelError
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
    assert objective.count(batch) == int((objective.pairs(batch).labels != IGNORE).sum())
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


def test_the_server_refuses_it_in_words(base: BaseModel) -> None:
    from codetune.serving.engines.foreign import TransformersRunner

    with pytest.raises(ModelError, match="encoder with a decoder"):
        TransformersRunner(base.path, torch.float32, torch.device("cpu"), rows=1, cache_bytes=1)
