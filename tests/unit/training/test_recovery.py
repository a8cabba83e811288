"""Memory that runs out and numbers that explode: the run mends itself, and says so."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from codetune.artifacts import Artifact, open_artifact
from codetune.errors import TrainingError, WillNotFitError
from codetune.models.load import BaseModel, resolve_base
from codetune.models.tokens import TokenStore
from codetune.progress import Progress
from codetune.training.batches import make_batch, split
from codetune.training.config import TrainingOptions
from codetune.training.metrics import read_metrics
from codetune.training.recovery import Diverged, Watch, is_out_of_memory
from codetune.training.train import train
from tests.unit.training.tiny_training import make_base

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["codetune.training.trainer", "peft"])
PROBES = 4  # passes before the first step: three to measure memory, one validation batch
FAST: dict[str, Any] = {
    "batch_tokens": 512,
    "window": 512,
    "max_steps": 6,
    "learning_rate": 5e-3,
    "gap_weight": 3.0,
    "precision": "fp32",
    "validate_every": 6,
}


def run(dataset: Artifact, base: BaseModel, folder: Path, **options: Any) -> Artifact:
    return train(dataset, base, TrainingOptions(**{**FAST, **options}), folder, Progress())


def lines(artifact: Artifact, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(artifact / "metrics.jsonl") if line["kind"] == kind]


def losses(artifact: Artifact) -> list[float]:
    return [line["loss"] for line in lines(artifact, "train")]


# -- memory ----------------------------------------------------------------------------------


def test_torch_really_raises_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_pieces_are_the_batch_cut_between_documents(dataset: Artifact) -> None:
    store = TokenStore.open(dataset / "tokens")
    batch = make_batch(store, range(7))
    for pieces in (1, 2, 3, 7, 20):
        parts = split(batch, pieces)
        assert len(parts) <= min(pieces, 7)
        assert [n for part in parts for n in part.layout.lengths] == list(batch.layout.lengths)
        assert torch.equal(torch.cat([p.input_ids for p in parts], 1), batch.input_ids)
        assert torch.equal(torch.cat([p.labels for p in parts]), batch.labels)
        for part in parts:
            assert torch.equal(part.input_ids[0][part.places + 1], part.labels)
            assert part.position_ids[0, 0] == 0
    assert len(split(batch, 20)) == 7


@contextmanager
def room_for(tokens: int, after: int = 0) -> Iterator[None]:
    """Any forward pass over more than `tokens` tokens asks torch for more than there is.

    The request is real, and so is the error; only its reason is ours. It begins with the
    training pass number `after`.
    """
    seen = 0

    def hook(module: torch.nn.Module, inputs: Any) -> None:
        nonlocal seen
        if type(module).__name__ == "Qwen2MLP" and module.training:
            seen += 1
            if seen > 2 * after and inputs[0].shape[1] > tokens:  # there are two layers
                torch.empty(1 << 60)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_smaller_passes_learn_the_same(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    """Memory runs out in the middle of a step: it is computed again in smaller passes."""
    plain = run(dataset, base, tmp_path / "plain")
    with room_for(200, after=PROBES + 2):
        mended = run(dataset, base, tmp_path / "mended")
    events = mended.summary["recovery"]
    assert [event["pieces"] for event in events] == [2, 4]
    assert events[-1]["accumulation"] == 4 * events[0]["accumulation"] // 2
    assert {event["step"] for event in events} == {3}
    assert lines(mended, "recovery")[0]["what"] == events[0]["what"]
    assert losses(mended) == pytest.approx(losses(plain), rel=2e-4)
    assert mended.summary["tokens"] == plain.summary["tokens"]
    assert plain.summary["recovery"] == []


def test_without_leave_to_recover_it_stops_with_one_sentence(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    with (
        room_for(150, after=PROBES + 2),
        pytest.raises(TrainingError, match="Out of memory at step"),
    ):
        run(dataset, base, tmp_path, recover=False)


def test_then_activations_are_computed_twice_then_bits_are_spared(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """Nothing helps here, so that every remedy is tried, in order, before the run gives up."""
    with (
        room_for(0, after=PROBES + 2),
        pytest.raises(TrainingError, match="cannot be made smaller"),
    ):
        run(dataset, base, tmp_path, allow_quantised_fallback=True)
    (folder,) = tmp_path.glob(".*.partial")
    recoveries = json.loads((folder / "recovery.json").read_text())["events"]
    pieces = [line["pieces"] for line in recoveries if "pieces" in line]
    assert pieces == [2 << n for n in range(len(pieces))] and pieces[-1] >= 8
    assert [line.get("bits") for line in recoveries if "bits" in line] == ["int8", "nf4"]
    twice = [line.get("gradient_checkpointing", False) for line in recoveries]
    assert twice.index(True) == len(pieces)


def test_preflight_makes_passes_smaller_before_it_refuses(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(WillNotFitError):
        run(dataset, base, tmp_path / "recover", memory_limit=50_000_000)
    with room_for(300):
        artifact = run(dataset, base, tmp_path / "limited")
    assert [event["step"] for event in artifact.summary["recovery"]] == [0]


def test_bits_are_spared_before_the_preflight_refuses(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """The memory is too little with any number of bits: both are tried first."""
    with pytest.raises(WillNotFitError, match="memory"):
        run(dataset, base, tmp_path, memory_limit=50_000_000, allow_quantised_fallback=True)
    (folder,) = tmp_path.glob(".*.partial")
    recoveries = json.loads((folder / "recovery.json").read_text())["events"]
    assert [line["bits"] for line in recoveries if "bits" in line] == ["int8", "nf4"]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_no_reason_to_spare_bits(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(WillNotFitError, match="of disk"):
        run(dataset, base, tmp_path, allow_quantised_fallback=True)
    assert not list(tmp_path.glob(".*.partial/recovery.json"))


def test_no_batch_is_tried_that_is_said_not_to_fit(
    dataset: Artifact, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even after a first cut: some systems kill a process that takes too much."""
    mega, most = 1_000_000, 0  # a token takes a megabyte here
    sizes: list[int] = []

    def hook(module: torch.nn.Module, inputs: Any) -> None:
        nonlocal most
        if type(module).__name__ == "Qwen2MLP" and torch.is_grad_enabled():
            sizes.append(inputs[0].shape[1])
            most = max(most, sizes[-1])

    def reset() -> None:
        nonlocal most
        most = 0

    monkeypatch.setattr("codetune.training.preflight.reset_peak_memory", reset)
    monkeypatch.setattr("codetune.training.preflight.peak_memory", lambda: most * mega)
    monkeypatch.setattr("codetune.training.preflight._held", lambda: 0)
    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        limit = {"window": 64, "max_steps": 1, "memory_limit": 200 * mega}
        artifact = run(dataset, base, tmp_path, **limit)
    finally:
        handle.remove()
    assert [event["pieces"] for event in artifact.summary["recovery"]] == [2, 4]
    assert max(sizes) <= 200


def vast_base(folder: Path) -> BaseModel:
    """Few weights and wide activations: 16 kB a token in every tensor of its MLP."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    make_base(folder)
    config = Qwen2Config.from_pretrained(folder)
    config.intermediate_size = 4096
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return resolve_base(str(folder))


WHOLE: dict[str, Any] = {**FAST, "batch_tokens": 2048, "max_steps": 2, "method": "full"}


def limited(dataset: Path, small: BaseModel, vast: BaseModel, folder: Path, room: int) -> None:
    """A run in a process that really may not have more than `room` bytes beyond what it has."""
    import resource

    torch.set_num_threads(1)
    options = TrainingOptions(**{**WHOLE, "max_steps": 1})
    train(open_artifact(dataset), small, options, folder / "warm", Progress())  # loads libraries
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmSize" in x)
    used = int(line.split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
    options = TrainingOptions(**WHOLE, memory_limit=1 << 40)  # so that the pre-flight lets it try
    train(open_artifact(dataset), vast, options, folder / "limited", Progress())


def test_a_real_memory_limit_gives_the_same_training(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    vast = vast_base(tmp_path / "vast")
    plain = run(dataset, vast, tmp_path / "plain", **WHOLE)
    arguments = (dataset.path, base, vast, tmp_path, 200_000_000)
    process = SERVER.Process(target=limited, args=arguments)
    process.start()
    process.join(250)
    assert process.exitcode == 0
    (found,) = (open_artifact(x.parent) for x in (tmp_path / "limited").glob("*/manifest.json"))
    events = found.summary["recovery"]
    assert events and events[0]["why"] == "Out of memory"
    assert events[-1]["pieces"] >= 2
    assert losses(found) == pytest.approx(losses(plain), rel=2e-4)


# -- numbers ---------------------------------------------------------------------------------


@contextmanager
def poisoned(passes: set[int], factor: float = float("nan")) -> Iterator[None]:
    """These forward passes of the last layer (counted from 1) give NaN, or so many times more."""
    seen = 0

    def hook(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        nonlocal seen
        if type(module).__name__ == "Qwen2Model" and module.training:
            seen += 1
            if seen in passes:
                output.last_hidden_state = output.last_hidden_state * factor
        return output

    handle = torch.nn.modules.module.register_module_forward_hook(hook, always_call=True)
    try:
        yield
    finally:
        handle.remove()


def test_nan_goes_back_to_the_last_good_checkpoint(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """The fourth step is poisoned once."""
    with poisoned({PROBES + 4}):
        artifact = run(dataset, base, tmp_path, checkpoint_seconds=0)
    (event,) = artifact.summary["recovery"]
    # Step 3's checkpoint may be the cause: step 2's weights have given a good loss since.
    assert (event["step"], event["to_step"], event["rate"]) == (4, 2, 0.5)
    assert artifact.summary["resumed_from"] == [2]
    assert artifact.summary["steps"] == 6
    train_lines = lines(artifact, "train")
    assert [line["step"] for line in train_lines] == [1, 2, 3, 4, 5, 6]
    rates = [line["learning_rate"] for line in train_lines]
    plain = run(dataset, base, tmp_path / "plain", checkpoint_seconds=0)
    wanted = [line["learning_rate"] for line in lines(plain, "train")]
    halves = [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    assert rates == pytest.approx([r * half for r, half in zip(wanted, halves, strict=True)])
    assert losses(artifact)[:2] == losses(plain)[:2]


def test_divergence_goes_back_to_before_the_first_high_loss(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """It is seen at the third high loss: checkpoints since the first are no way back."""
    with poisoned({PROBES + n for n in (4, 5, 6)}, factor=40.0):
        artifact = run(dataset, base, tmp_path, max_steps=8, checkpoint_seconds=0)
    (event,) = artifact.summary["recovery"]
    assert "rose to" in event["why"]
    assert (event["step"], event["to_step"]) == (6, 2)
    assert artifact.summary["resumed_from"] == [2]
    assert max(losses(artifact)) < 2 * losses(artifact)[0]


def test_nan_before_any_checkpoint_begins_anew(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    with poisoned({PROBES + 2}):
        artifact = run(dataset, base, tmp_path, checkpoint_seconds=1000)
    (event,) = artifact.summary["recovery"]
    assert (event["to_step"], artifact.summary["resumed_from"]) == (0, [])
    assert [line["step"] for line in lines(artifact, "train")] == [1, 2, 3, 4, 5, 6]


def test_after_two_returns_it_stops_clearly(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    with poisoned(set(range(PROBES + 2, 100))), pytest.raises(TrainingError) as raised:
        run(dataset, base, tmp_path, checkpoint_seconds=0)
    assert "third time" in str(raised.value) and "learning_rate" in str(raised.value)


def test_watch_lets_single_hard_batches_pass_and_sees_divergence() -> None:
    watch = Watch()
    for step in range(1, 40):
        watch.check(step, 1.0 + (4.0 if step % 5 == 0 else 0.1 * (step % 3)), 1.0)
    with pytest.raises(Diverged, match="rose to 6"):
        for step in range(40, 43):
            watch.check(step, 6.0, 1.0)
