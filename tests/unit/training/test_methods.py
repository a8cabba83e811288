"""Each method and optimizer does what its name says, and what it leaves behind can be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from codetune.artifacts import Artifact
from codetune.errors import MissingExtraError, TrainingError
from codetune.models.load import BaseModel, load_adapter, load_model, parent_of
from codetune.models.quantised import bitsandbytes_for
from codetune.progress import Progress, Quiet, Task
from codetune.training.config import TrainingOptions
from codetune.training.methods import METHODS, load_base, prepare, rank_of
from codetune.training.optimizer import OPTIMIZERS, make_optimizer
from codetune.training.train import train

FAST: dict[str, Any] = {"batch_tokens": 512, "epochs": 2, "learning_rate": 1e-2}
IDS = torch.arange(3, 60)[None]


def run(dataset: Artifact, base: BaseModel, folder: Path, **options: Any) -> Artifact:
    return train(dataset, base, TrainingOptions(**{**FAST, **options}), folder, Progress())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits.float()
    return found


def tuned(base: BaseModel, folder: Path) -> Any:
    return load_adapter(load_model(base.path, dtype=torch.float32), folder, base=base)


class Stop(Quiet):
    """Ctrl-C at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def update(self, task: Task) -> None:
        task._told = 0.0
        if task.unit == "steps" and task.done >= self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["dora", "qlora", "qlora8"])
def test_method_learns_and_merges_into_the_plain_base(
    method: str, dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """A QLoRA adapter is put on, and merged into, the base as it was before quantising."""
    artifact = run(dataset, base, tmp_path, method=method)
    summary = artifact.summary
    assert summary["validation"]["best"] < summary["validation"]["first"] - 0.1
    assert summary["method"] == method
    assert summary["shares_batches"] == (method not in ("dora", "full"))
    beside = tuned(base, artifact / "model")
    before = logits(beside)
    assert (before - logits(load_model(base.path, dtype=torch.float32))).abs().max() > 1e-2
    merged = beside.merge_and_unload()
    assert merged.model.layers[0].mlp.up_proj.weight.dtype == torch.float32
    torch.testing.assert_close(logits(merged), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("method", "kind"), [("qlora", torch.uint8), ("qlora8", torch.int8)])
def test_quantised_base_is_small_and_counted_whole(
    method: str, kind: torch.dtype, base: BaseModel
) -> None:
    from codetune.models.architecture import count_parameters

    plain = load_model(base.path)
    model: Any = load_base(
        base,
        TrainingOptions(method=method),  # type: ignore[arg-type]
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )
    assert model.model.layers[1].self_attn.q_proj.weight.dtype == kind
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert count_parameters(model) == count_parameters(plain)


def test_missing_bitsandbytes_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(MissingExtraError) as raised:
        bitsandbytes_for("QLoRA")
    assert 'pip install "codetune[quant]"' in str(raised.value)


def test_bitsandbytes_is_not_led_to_the_hub() -> None:
    """Its import would load compiled code through `kernels` if it found that package."""
    bitsandbytes_for("the test")
    assert sys.modules.get("kernels", "absent") == "absent"


def test_peft_does_not_lead_bitsandbytes_to_the_hub(base: BaseModel, tmp_path: Path) -> None:
    """PEFT imports it, and does so where nobody asks for a quantised base."""
    peft = pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    adapter = peft.get_peft_model(
        load_model(base.path), peft.LoraConfig(r=2, task_type="CAUSAL_LM")
    )
    adapter.save_pretrained(tmp_path / "adapter")
    asked = tmp_path / "asked"
    (tmp_path / "kernels.py").write_text(f"open({str(asked)!r}, 'w')\n")
    program = (
        "import sys; from pathlib import Path\n"
        "from codetune.models.load import load_adapter, load_model\n"
        "load_adapter(load_model(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "assert 'bitsandbytes' in sys.modules and 'kernels' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(base.path), str(tmp_path / "adapter")],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, asked.exists()) == (0, "", False)


@pytest.mark.parametrize("rslora", [True, False])
def test_scale_follows_rslora(rslora: bool, base: BaseModel) -> None:
    model: Any = prepare(
        load_model(base.path), TrainingOptions(rank=16, alpha=8, rslora=rslora), speed=False
    )
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    assert layer.scaling["default"] == (2.0 if rslora else 0.5)


def test_a_small_base_gets_a_larger_rank_by_default(base: BaseModel) -> None:
    usual = TrainingOptions()
    sizes = (5_000_000, 49_999_999, 50_000_000, 1_500_000_000)
    assert [rank_of(usual, size) for size in sizes] == [64, 64, 16, 16]
    assert rank_of(usual, 5_000_000, on_adapter=True) == 16
    assert rank_of(TrainingOptions(rank=8), 5_000_000) == 8
    model: Any = prepare(load_model(base.path), usual)
    chosen = model.peft_config["default"]
    assert chosen.r == chosen.lora_alpha == 64


def test_adapter_on_adapter_is_one_adapter_that_does_both(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    team = run(dataset, base, tmp_path / "team", rank=8, alpha=8)
    parent = parent_of("team:1", team / "model", base)
    stacked = replace(base, parent=parent)
    # Other rank, and so another scale: the joined one must still add both up.
    own = run(dataset, stacked, tmp_path / "own", rank=2, precision="fp32")
    assert own.inputs["parent"] == parent.digest
    assert own.summary["validation"]["first"] == pytest.approx(
        team.summary["validation"]["best"], abs=0.02
    )
    assert own.summary["validation"]["best"] < own.summary["validation"]["first"]
    config = json.loads((own / "model" / "adapter_config.json").read_text())
    assert config["r"] == 10
    both = tuned(base, own / "model")
    names = {key.replace("lora_A", "lora_B") for key in load_file(own / "model" / WEIGHTS)}
    assert all(load_file(own / "model" / WEIGHTS)[name].shape[-1] == 10 for name in names)

    # The same by hand: what the frozen team adapter and the new one do beside each other.
    options = TrainingOptions(rank=2)
    plain = load_model(base.path, dtype=torch.float32)
    model: Any = prepare(plain, options, parent=parent, speed=False)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all(".default." in name for name in trained)
    upper = load_file(own / "model" / WEIGHTS)
    scale = config["lora_alpha"] / config["r"]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in trained:
                joined = upper[name.replace(".default", "")]
                if "lora_A" in name:
                    weight.copy_(joined[8:])
                else:
                    weight.copy_(joined[:, 8:] * scale / 2**0.5)  # its own scale: 2 / √2
    torch.testing.assert_close(logits(both), logits(model), rtol=1e-3, atol=1e-3)


WEIGHTS = "adapter_model.safetensors"


def test_a_parent_trained_with_dropout_is_not_noisy(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    team = run(dataset, base, tmp_path / "team", dropout=0.5)
    parent = parent_of("team:1", team / "model", base)
    model: Any = prepare(load_model(base.path), TrainingOptions(), parent=parent, speed=False)
    model.train()
    torch.testing.assert_close(logits(model), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["full", "dora"])
def test_only_plain_lora_builds_on_an_adapter(
    method: str, dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    team = run(dataset, base, tmp_path / "team", max_steps=1)
    stacked = replace(base, parent=parent_of("team:1", team / "model", base))
    with pytest.raises(TrainingError, match="cannot build on the adapter 'team:1'"):
        run(dataset, stacked, tmp_path / "own", method=method)


def test_nothing_builds_on_dora(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    team = run(dataset, base, tmp_path / "team", max_steps=1, method="dora")
    stacked = replace(base, parent=parent_of("team:1", team / "model", base))
    with pytest.raises(TrainingError, match="use_dora"):
        run(dataset, stacked, tmp_path / "own")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_learns_and_resumes_exactly(
    name: str, dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "optimizer": name,
        "method": "full",
        "learning_rate": 3e-3,
        "max_steps": 5,
        "checkpoint_seconds": 0,
        "validate_every": 5,
    }
    whole = run(dataset, base, tmp_path / "whole", **options)
    assert whole.summary["validation"]["best"] < whole.summary["validation"]["first"] - 0.1
    with pytest.raises(KeyboardInterrupt):
        chosen = TrainingOptions(**{**FAST, **options})
        train(dataset, base, chosen, tmp_path / "broken", Progress(Stop(at=4)))
    again = run(dataset, base, tmp_path / "broken", **options)
    assert again.summary["resumed_from"] == [3]
    one, two = (load_file(artifact / "model" / "model.safetensors") for artifact in (whole, again))
    for key, tensor in one.items():
        assert torch.equal(tensor, two[key]), key


def test_eight_bit_moments_are_eight_bits(base: BaseModel) -> None:
    weight = torch.nn.Parameter(torch.randn(128, 64))
    optimizer = make_optimizer("adamw8bit", [("w", weight)], lr=1e-3, weight_decay=0.0)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert optimizer.tensors()["state1/w"].dtype == torch.uint8


def test_muon_takes_hidden_matrices_only(base: BaseModel) -> None:
    model = load_model(base.path, dtype=torch.float32)
    optimizer: Any = make_optimizer(
        "muon", list(model.named_parameters()), lr=1e-3, weight_decay=0.0
    )
    muon, adamw = optimizer._parts
    hidden = {id(w) for group in muon.param_groups for w in group["params"]}
    names = {name for name, weight in optimizer.masters.items() if id(weight) in hidden}
    assert len(names) == 14 and all("proj" in name for name in names)
    rest = sum(len(group["params"]) for group in adamw.param_groups)
    assert len(names) + rest == len(optimizer.masters)


def test_the_command_line_knows_every_method() -> None:
    from typing import get_args

    from codetune.cli.options import METHODS as OFFERED

    assert get_args(TrainingOptions.model_fields["method"].annotation) == OFFERED


def test_every_method_option_is_a_method() -> None:
    from typing import get_args

    named = get_args(TrainingOptions.model_fields["method"].annotation)
    assert set(named) == set(METHODS)
    kinds = get_args(TrainingOptions.model_fields["optimizer"].annotation)
    assert set(kinds) == set(OPTIMIZERS)
