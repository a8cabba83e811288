"""Every architecture trains, resumes, reloads, merges and generates; a tiny real model of each."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from codetune.artifacts import Artifact
from codetune.models.architecture import linear_layers, model_window, stated_window
from codetune.models.load import BaseModel, load_adapter, load_model
from codetune.models.tokens import TokenStore
from codetune.progress import Progress, Quiet, Task
from codetune.training.batches import make_batch
from codetune.training.config import TrainingOptions
from codetune.training.methods import prepare, trained
from codetune.training.objective import CausalObjective, make_objective
from codetune.training.selfcheck import check_objective
from codetune.training.train import train
from tests.unit.models.tiny_architectures import (
    ARCHITECTURES,
    CAUSAL,
    SEQ2SEQ,
    VOCABULARY,
    write_base,
)
from tests.unit.training.tiny_training import make_dataset

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
GAP_WEIGHT = 3.0


@cache
def base_of(architecture: str) -> BaseModel:
    return write_base(Path(mkdtemp()) / architecture, architecture)


@cache
def data() -> Artifact:
    return make_dataset(Path(mkdtemp()), examples=40, longest=40)


@pytest.mark.parametrize(
    ("config", "stated", "usual"),
    [
        ({"max_position_embeddings": 256}, 256, 256),
        ({"n_positions": 1024, "n_ctx": 512}, 512, 512),  # what all of them allow
        ({"max_seq_len": 2048}, 2048, 2048),
        ({"seq_length": 2048, "n_positions": None}, 2048, 2048),
        ({"is_encoder_decoder": True}, None, 512),
        ({"n_positions": 128, "is_encoder_decoder": True}, 128, 128),
        ({}, None, None),
    ],
)
def test_windows_by_all_their_names(
    config: dict[str, Any], stated: int | None, usual: int | None
) -> None:
    assert (stated_window(config), model_window(config)) == (stated, usual)


class Stop(Quiet):
    """Ctrl-C in the middle of a run: raised where a step's progress is shown."""

    def __init__(self, at: int) -> None:
        self.at = at

    def update(self, task: Task) -> None:
        task._told = 0.0  # each step, not ten times a second
        if task.unit == "steps" and task.done >= self.at:
            raise KeyboardInterrupt


def options(method: str, **more: Any) -> TrainingOptions:
    values: dict[str, Any] = {
        "method": method,
        "precision": "fp32",
        "learning_rate": 1e-2,
        "batch_tokens": 256,
        "window": 128,
        "max_steps": 4,
        "validate_every": 4,
        "dropout": 0.05,
        "checkpoint_seconds": 0,
        "gap_weight": 1,  # four steps on random text: what they learn is what is scored
    }
    return TrainingOptions(**{**values, **more})


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, **extra).logits
    return found


@every_architecture
def test_adapter_trains_resumes_reloads_merges_generates(architecture: str, tmp_path: Path) -> None:
    base = base_of(architecture)
    whole = train(data(), base, options("lora"), tmp_path / "whole", Progress())
    assert whole.summary["validation"]["best"] < whole.summary["validation"]["first"] - 0.02

    with pytest.raises(KeyboardInterrupt):
        train(data(), base, options("lora"), tmp_path / "broken", Progress(Stop(at=3)))
    resumed = train(data(), base, options("lora"), tmp_path / "broken", Progress())
    assert resumed.summary["resumed_from"] == [2]
    for file in (whole / "model").iterdir():
        assert (resumed / "model" / file.name).read_bytes() == file.read_bytes(), file.name

    plain = load_model(base.path, dtype=torch.float32)
    ids = torch.arange(1, 30)[None]
    before = logits(plain, ids)
    tuned: Any = load_adapter(plain, whole / "model", base=base)
    beside = logits(tuned, ids)
    assert (beside - before).abs().max() > 1e-3
    merged: Any = tuned.merge_and_unload()
    torch.testing.assert_close(logits(merged, ids), beside, rtol=1e-4, atol=1e-4)
    answer = merged.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    start = 1 if architecture in SEQ2SEQ else ids.shape[1]
    assert answer.shape == (1, start + 5)


# One of each kind: the kinds differ in their layers and in how documents are kept apart.
@pytest.mark.parametrize("architecture", ["qwen2", "deepseek_v2", "gpt2", "bloom", "t5"])
def test_whole_model_trains_and_reloads(architecture: str, tmp_path: Path) -> None:
    base = base_of(architecture)
    run = train(data(), base, options("full", max_steps=2), tmp_path, Progress())
    assert run.summary["trainable"] == run.summary["parameters"]
    tuned = load_model(run / "model", dtype=torch.float32)
    ids = torch.arange(1, 30)[None]
    again = logits(load_model(run / "model", dtype=torch.float32), ids)
    torch.testing.assert_close(logits(tuned, ids), again)
    assert (again - logits(load_model(base.path, dtype=torch.float32), ids)).abs().max() > 1e-3


@every_architecture
def test_adapters_go_to_every_linear_layer_but_the_head(architecture: str) -> None:
    model: Any = load_model(base_of(architecture).path, dtype=torch.float32)
    expected = set(linear_layers(model))
    tuned = prepare(model, TrainingOptions(rank=2))
    found = {
        name.split(".lora_A")[0].removeprefix("base_model.model.")
        for name, _ in trained(tuned)
        if "lora_A" in name
    }
    assert found == expected
    assert not any("head" in name or "embed_out" in name for name in found)
    # Attention's four (or one that holds three, and its output) and the MLP's, in two layers.
    expected_counts = {"gpt2": 4, "gpt_neox": 4, "bloom": 4, "starcoder2": 6, "deepseek_v2": 4}
    if architecture in CAUSAL:
        assert len(found) == expected_counts.get(architecture, 7) * 2


@every_architecture
def test_gradients_equal_one_document_at_a_time(architecture: str) -> None:
    """A packed micro-batch gives the sum of its documents' own gradients, to 1e-5.

    What fills a gap weighs more than the rest.
    """
    store = TokenStore.open(data() / "tokens")
    documents = list(range(9))
    torch.manual_seed(0)
    model = prepare(
        load_model(base_of(architecture).path, dtype=torch.float32), TrainingOptions(rank=4)
    )
    for name, weight in trained(model):
        if "lora_B" in name:  # zero at the start: A would have no gradient
            torch.nn.init.normal_(weight, std=0.1)
    objective = make_objective(model)
    check_objective(objective, VOCABULARY, int(store.lengths.max()))
    model.train()
    weights = [weight for _, weight in trained(model)]
    packed = make_batch(store, documents, gap_weight=GAP_WEIGHT)
    assert packed.weights is not None
    divisor = objective.mass(packed)
    assert divisor > objective.mass(packed.plain()) > 0
    got = torch.autograd.grad(objective.loss(packed), weights)  # over the mass, if not told
    wanted = [torch.zeros_like(weight) for weight in weights]
    for document in documents:
        loss = plain_loss(objective, store, document) / divisor
        for total, one in zip(wanted, torch.autograd.grad(loss, weights), strict=True):
            total += one
    scale = max(float(gradient.abs().max()) for gradient in wanted)
    assert scale > 1e-3
    for ours, theirs in zip(got, wanted, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, scale)
    plain = objective.summed(packed.plain())
    assert objective.summed(packed) == plain  # validation knows no weights
    assert plain[1] == objective.mass(packed.plain())


def plain_loss(objective: Any, store: TokenStore, document: int) -> torch.Tensor:
    """The summed loss of one document as a textbook computes it, by the model's own forward."""
    batch = make_batch(store, [document])
    tokens, loss_from = store[document]
    weights = torch.ones(len(tokens))
    if gap := int(store.gaps[document]):
        weights[gap:] = GAP_WEIGHT
    if not isinstance(objective, CausalObjective):
        pairs = objective.pairs(batch)
        output = objective.causal(
            input_ids=pairs.sources, decoder_input_ids=pairs.inputs, use_cache=False
        ).logits
        each = torch.nn.functional.cross_entropy(output[0], pairs.labels[0], reduction="none")
        return (each * weights[len(tokens) - len(each) :]).sum()
    ids = torch.tensor(tokens.tolist())
    first = max(1, loss_from)
    way = objective.way
    objective.use("sdpa")
    output = objective.causal(input_ids=ids[None], use_cache=False).logits
    objective.use(way)
    each = torch.nn.functional.cross_entropy(
        output[0, first - 1 : -1], ids[first:], reduction="none"
    )
    return (each * weights[first:]).sum()


@pytest.mark.parametrize("architecture", CAUSAL)
def test_documents_are_kept_apart_the_fastest_way_that_works(architecture: str) -> None:
    objective: Any = make_objective(load_model(base_of(architecture).path, dtype=torch.float32))
    check_objective(objective, VOCABULARY, longest=40)
    expected = {"bloom": "padded", "mistral": "sdpa"}
    assert objective.way == expected.get(architecture, "documents")
