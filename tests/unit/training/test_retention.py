"""After training the weights go back towards the base's until general code is not forgotten."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from codetune.artifacts import Artifact
from codetune.dataset.replay import replay_documents
from codetune.models.load import BaseModel, resolve_base
from codetune.models.nano.general import kept_apart
from codetune.progress import Progress
from codetune.training import retention, threads
from codetune.training.config import TrainingOptions
from codetune.training.threads import Shares
from codetune.training.train import train
from tests.unit.models.tiny_tokenizer import write_characters
from tests.unit.training.tiny_training import VOCABULARY

LIMIT = 0.01


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    """nano: a base that knows something that it can forget."""
    monkeypatch.setattr(retention, "_BYTES", 4096)
    monkeypatch.setattr(retention, "_SAMPLE", 2048)
    monkeypatch.setattr(retention, "_SAMPLE_BYTES", 8192)
    return resolve_base("nano")


def tuned(dataset: Artifact, base: BaseModel, folder: Path, **options: Any) -> Artifact:
    """A run that learns much too fast, so that there is something to take back."""
    rate = 1e-3 if options.get("method") == "full" else 1e-2
    few = {"batch_tokens": 512, "max_steps": 4, "rank": 16}
    chosen = TrainingOptions(**few, learning_rate=rate, **options)
    return train(dataset, base, chosen, folder, Progress())


def weights(run: Artifact) -> dict[str, torch.Tensor]:
    (file,) = (run / "model").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_kept_is_within_the_limit(
    method: str, dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    run = tuned(dataset, base, tmp_path, method=method, forgetting_limit=LIMIT)
    found = run.summary["retention"]
    assert found["trained"] > found["base"] * (1 + LIMIT)
    assert found["base"] != found["kept"] <= found["base"] * (1 + LIMIT)
    assert 0 < found["share"] < 1
    # A layer's change is bent before, of an adapter its A; what is left is a share of that.
    free = weights(tuned(dataset, base, tmp_path, method=method, forgetting_limit=None))
    start = load_file(base.path / "model.safetensors")
    bent = 0
    for name, weight in weights(run).items():
        origin = torch.zeros_like(weight) if method == "lora" else start[name]
        change, kept = ((w - origin).float() for w in (free[name], weight))
        if "proj" in name and "lora_B" not in name:
            along = torch.cosine_similarity(change.flatten(), kept.flatten(), 0)
            assert 0 < along < 0.999, name
            bent += 1
        else:
            moved = origin.float().lerp(free[name].float(), found["share"])
            assert torch.allclose(weight.float(), moved, rtol=1e-2, atol=1e-4), name
    assert bent > 20


def out_of_memory(*_: object) -> dict[str, torch.Tensor]:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    "name, instead",
    [("affordable", lambda layers: {}), ("second_moments", out_of_memory)],
    ids=["too wide", "out of memory"],
)
def test_layers_stay_as_they_are_where_they_cannot_be_bent(
    name: str,
    instead: Any,
    dataset: Artifact,
    base: BaseModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, name, instead)
    run = tuned(dataset, base, tmp_path, forgetting_limit=LIMIT)
    free = weights(tuned(dataset, base, tmp_path, forgetting_limit=None))
    share = run.summary["retention"]["share"]
    assert 0 < share < 1
    for name, weight in weights(run).items():
        whole = free[name].float()
        kept = whole if "lora_A" in name else share * whole
        assert torch.allclose(weight.float(), kept, rtol=1e-2, atol=1e-4), name


def test_where_threads_share_the_passes_it_ends_with_the_same_bits(
    dataset: Artifact, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = 0

    def run(self: Shares, work: Any) -> Any:
        nonlocal shared
        shared += 1
        return as_it_is(self, work)

    as_it_is = Shares.run
    monkeypatch.setattr(Shares, "run", run)
    monkeypatch.setattr(threads, "LEAST_TOKENS", 64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        folders = (tmp_path / "one", tmp_path / "two")
        one, two = (tuned(dataset, base, f, forgetting_limit=LIMIT) for f in folders)
    finally:
        torch.set_num_threads(before)
    assert shared and one.summary["retention"]["share"] < 1
    assert weights(one).keys() == weights(two).keys()
    assert all(torch.equal(weight, weights(two)[name]) for name, weight in weights(one).items())


def test_general_code_is_read_in_pieces_that_the_base_can_read(
    dataset: Artifact, tmp_path: Path
) -> None:
    """GPT-2 has as many positions as it was trained on; a packed row may be longer."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=128, n_embd=32, n_layer=2, n_head=4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    write_characters(tmp_path / "base")
    small = resolve_base(str(tmp_path / "base"))
    run = tuned(dataset, small, tmp_path / "run", forgetting_limit=LIMIT)
    assert run.summary["retention"]["base"] > 0


def test_within_the_limit_nothing_is_taken_back(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    run = tuned(dataset, base, tmp_path, forgetting_limit=1e3)
    free = tuned(dataset, base, tmp_path, forgetting_limit=None)
    found = run.summary["retention"]
    assert found["share"] == 1 and found["kept"] == found["trained"]
    assert free.summary["retention"] is None
    assert all(torch.equal(weight, weights(free)[name]) for name, weight in weights(run).items())


def test_where_bending_is_more_than_enough_it_bends_less(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    free = weights(tuned(dataset, base, tmp_path, forgetting_limit=None))
    lost = tuned(dataset, base, tmp_path, forgetting_limit=1e-6).summary["retention"]
    limit = 0.97 * (lost["trained"] / lost["base"] - 1)
    found = tuned(dataset, base, tmp_path, forgetting_limit=limit).summary["retention"]
    assert found["share"] == 1 and 0 < found["bent"] < 1
    most = found["base"] * (1 + limit)
    assert most - (found["trained"] - most) < found["kept"] <= most < found["trained"]
    kept = weights(tuned(dataset, base, tmp_path, forgetting_limit=limit))
    moved = {name for name, weight in kept.items() if not torch.equal(weight, free[name])}
    assert moved and all("lora_A" in name for name in moved)


def test_the_way_leads_from_the_tuned_model_to_the_bent_one_and_to_the_base() -> None:
    def loss_at(share: float, bent: float) -> float:
        return 1 + share * (3 - 2 * bent)  # tuned 4, bent 2, base 1

    def found(limit: float) -> tuple[float, float]:
        kept = retention._largest(loss_at, lambda: None, limit)
        assert kept.kept == loss_at(kept.share, kept.bent) <= 1 + limit
        return kept.share, kept.bent

    assert found(3) == (1, 0)
    assert found(2) == (1, 0.5)
    assert found(1) == (1, 1)
    assert found(0.5) == (0.5, 1)
    assert found(0.001) == (0, 1)


def test_dora_is_left_as_it_was_trained(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    run = tuned(dataset, base, tmp_path, method="dora", forgetting_limit=LIMIT)
    assert run.summary["retention"] is None


def test_what_measures_forgetting_is_of_packages_that_are_not_replayed() -> None:
    apart = {row["text"]: row["repo"] for row in kept_apart(10**9)}
    replayed = {document.text: document.repo for document in replay_documents(10**9, seed=0)}
    assert len(apart) > 30 and len(replayed) > 500
    assert not apart.keys() & replayed.keys()
    assert len(set(apart.values())) >= 4 and not set(apart.values()) & set(replayed.values())


def test_what_measures_forgetting_is_in_many_languages() -> None:
    sizes: Counter[str] = Counter()
    for row in kept_apart(100_000):
        sizes[row["language"]] += len(row["text"].encode())
    assert 80_000 <= sizes.total() < 130_000
    assert {"python", "c", "javascript"} <= sizes.keys()
    assert 0.5 < sizes["python"] / sizes.total() < 0.75
