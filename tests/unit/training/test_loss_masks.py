"""Batches learn exactly what the token store says, token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codetune.errors import ArtifactError
from codetune.models.load import Parent
from codetune.models.prompts.templates import TEMPLATE_FILE
from codetune.models.tokens import TokenStore, TokenWriter
from codetune.training.batches import make_batch, split
from codetune.training.methods import keep_template


def store(folder: Path) -> TokenStore:
    with TokenWriter(folder, 100) as writer:
        writer.append([10, 11, 12], stream="ntp", document=0)
        writer.append(
            [20, 21, 22, 23, 24, 25],
            stream="sft",
            document=1,
            loss=np.array([False, False, True, False, True, True]),
        )
        writer.append([30, 31, 32, 33], stream="fim", document=2, loss_from=2)
    return TokenStore.open(folder)


def test_labels_are_the_tokens_with_loss(tmp_path: Path) -> None:
    batch = make_batch(store(tmp_path), [1, 0, 2])
    assert batch.labels.tolist() == [22, 24, 25, 11, 12, 32, 33]
    assert batch.input_ids[0, batch.places].tolist() == [21, 23, 24, 10, 11, 31, 32]


def test_what_fills_a_gap_weighs_more(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, 100) as writer:
        writer.append([10, 11, 12], stream="ntp", document=0)
        writer.append(range(20, 27), stream="fim", document=1, loss_from=1, gap_from=4)
        # Only the middle is learned; and a gap that holds the only token before its end.
        writer.append([30, 31, 32, 33], stream="fim", document=2, loss_from=2, gap_from=2, weight=2)
    store = TokenStore.open(tmp_path)
    batch = make_batch(store, [1, 0, 2], gap_weight=5)
    assert batch.weights is not None
    weighed = dict(zip(batch.labels.tolist(), batch.weights.tolist(), strict=True))
    assert weighed == {
        21: 1, 22: 1, 23: 1, 24: 5, 25: 5, 26: 5, 11: 1, 12: 1, 32: 10, 33: 10
    }  # fmt: skip
    for part in split(batch, 2):
        assert part.weights is not None
        for label, weight in zip(part.labels.tolist(), part.weights.tolist(), strict=True):
            assert weighed[label] == weight
    assert make_batch(store, [0, 1]).weights is None
    assert make_batch(store, [0], gap_weight=5).weights is None


def test_a_mask_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as many flags"), TokenWriter(tmp_path, 9) as writer:
        writer.append([1, 2], stream="sft", document=0, loss=np.array([True]))


def test_a_store_that_lost_its_masks_is_refused(tmp_path: Path) -> None:
    store(tmp_path)
    (tmp_path / "loss.bin").write_bytes(b"\1")
    with pytest.raises(ArtifactError, match=r"loss\.bin"):
        TokenStore.open(tmp_path)
    (tmp_path / "loss.bin").unlink()
    with pytest.raises(ArtifactError, match=r"loss\.bin"):
        TokenStore.open(tmp_path)


def test_the_template_goes_along_with_the_weights(tmp_path: Path) -> None:
    dataset, below, model = tmp_path / "dataset", tmp_path / "below", tmp_path / "model"
    for folder in (dataset, below, model):
        folder.mkdir()
    parent = Parent("team:1", below, "digest")
    keep_template(dataset, parent, model)
    assert not (model / TEMPLATE_FILE).exists()
    (below / TEMPLATE_FILE).write_text("below")
    keep_template(dataset, parent, model)
    assert (model / TEMPLATE_FILE).read_text() == "below"
    (dataset / TEMPLATE_FILE).write_text("learned")
    keep_template(dataset, parent, model)
    assert (model / TEMPLATE_FILE).read_text() == "learned"
