"""The train loop against the plainest one: a document at a time, all logits, torch's AdamW.

Packing, isolated attention, the chunked loss, the short LoRA passes, accumulation, masters,
clipping and the schedule must not change what is learned: in float32 the losses are equal.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from codetune.artifacts import Artifact
from codetune.models.load import BaseModel
from codetune.models.tokens import TokenStore
from codetune.progress import Progress
from codetune.training.batches import MicroBatches
from codetune.training.config import TrainingOptions
from codetune.training.methods import prepare, trained
from codetune.training.metrics import read_metrics
from codetune.training.plan import make_plan
from codetune.training.train import train
from tests.unit.training.tiny_training import make_base, make_dataset


def plain_losses(dataset: Artifact, base: BaseModel, options: TrainingOptions) -> list[float]:
    """The loss of each step of a loop that a textbook would write."""
    store = TokenStore.open(dataset / "tokens")
    plan = make_plan(store, store, options, parameters=1)
    assert plan.accumulation > 1
    data = MicroBatches(store, plan.window, plan.rows_per_batch, options.seed)
    model = AutoModelForCausalLM.from_pretrained(
        base.path, dtype=torch.float32, attn_implementation="eager"
    )
    torch.manual_seed(options.seed)
    model = prepare(model, options, speed=False)
    weights = [weight for _, weight in trained(model)]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(plan.steps):
        warm = plan.warmup_steps
        rate = plan.learning_rate * (
            step / max(1, warm)
            if step < warm
            else 0.5 * (1 + math.cos(math.pi * (step - warm) / (plan.steps - warm)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        documents = [
            document
            for batch in data._batches[step * plan.accumulation : (step + 1) * plan.accumulation]
            for document in batch
        ]
        summed, count = torch.zeros(()), 0
        for document in documents:
            tokens, loss_from = store[document]
            ids = torch.tensor(tokens.tolist())
            first = max(1, loss_from)
            logits = model(ids[None]).logits[0, first - 1 : -1]
            summed = summed + torch.nn.functional.cross_entropy(
                logits, ids[first:], reduction="sum"
            )
            count += len(ids) - first
        loss = summed / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, options.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("method", ["lora", "full"])
def test_losses_equal_a_plain_loops(method: str, tmp_path: Path) -> None:
    options = TrainingOptions(
        method=method,  # type: ignore[arg-type]
        precision="fp32",
        learning_rate=1e-2,
        warmup=0.3,
        clip=0.5,
        batch_tokens=512,
        window=128,
        micro_batch_tokens=128,
        max_steps=5,
        gap_weight=1,
    )
    base, dataset = make_base(tmp_path / "base"), make_dataset(tmp_path / "data")
    artifact = train(dataset, base, options, tmp_path / "runs", Progress())
    lines = read_metrics(artifact / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    wanted = plain_losses(dataset, base, options)
    assert losses == pytest.approx(wanted, rel=2e-4)
    assert wanted[-1] < wanted[0]
