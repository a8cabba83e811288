"""Axolotl's files are read as they are written in the wild; ours can be read back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from codetune.bridges import axolotl, others
from codetune.cli.export_config import export_config
from codetune.cli.main import cli
from codetune.errors import ConfigError
from codetune.project import ProjectConfig, load_project

# The settings as the repository fine-tuning guide shows them: nested, and without an adapter.
NESTED = """\
base_model: Qwen/Qwen2-7B-Instruct
load_in_4bit: true
num_epochs: 2
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 2.0e-4
lora:
  r: 16
  alpha: 32
  dropout: 0.05
"""

# As Axolotl's own examples/qwen2/qlora.yaml has it, shortened.
OWN = """\
base_model: Qwen/Qwen2.5-Coder-1.5B
load_in_8bit: false
load_in_4bit: false
datasets:
  - path: ./chats.jsonl
    type: chat_template
    ds_type: json
val_set_size: 0.05
output_dir: ./outputs/out
sequence_len: 512
sample_packing: true
adapter: lora
lora_r: 32
lora_alpha: 64
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
peft_use_rslora: true
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
flash_attention: true
warmup_ratio: 0.1
weight_decay: 0.0
seed: 7
special_tokens:
  pad_token: "<|endoftext|>"
deepspeed: zero3.json
"""


def load(tmp_path: Path, text: str) -> ProjectConfig:
    file = tmp_path / "axolotl.yaml"
    file.write_text(text)
    return load_project(file)


def test_nested_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load(tmp_path, NESTED)
    training = config.training
    assert config.base == "Qwen/Qwen2-7B-Instruct"
    assert (training.method, training.rank, training.alpha) == ("qlora", 16, 32)
    assert (training.dropout, training.rslora, training.epochs) == (0.05, False, 2)
    assert training.learning_rate == 2e-4
    assert training.batch_tokens == 8 * (training.micro_batch_tokens or 0)
    assert not caplog.records


def test_axolotls_own_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load(tmp_path, OWN)
    training = config.training
    assert (training.method, training.rank, training.alpha) == ("lora", 32, 64)
    assert training.rslora and training.target_modules == ("q_proj", "v_proj")
    assert training.learning_rate == 2e-4  # YAML reads 2e-4 as a text
    assert (training.optimizer, training.warmup, training.seed) == ("adamw8bit", 0.1, 7)
    assert config.dataset.window == 512
    assert (training.micro_batch_tokens, training.batch_tokens) == (1024, 4096)
    (mixed,) = config.dataset.mix
    assert (mixed.path, mixed.format) == ("./chats.jsonl", "messages")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for key in ("val_set_size", "output_dir", "special_tokens.pad_token", "deepspeed"):
        assert key in record.message
    assert "wandb_project" not in record.message  # says nothing
    assert "flash_attention" not in record.message  # what we do anyway


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("adapter: prefix", "'adapter' cannot be 'prefix'"),
        ("optimizer: sgd", "'optimizer' cannot be 'sgd'"),
        ("learning_rate: high", "'learning_rate' cannot be 'high'"),
        ("lora_r: -3", "training.rank"),
        ("datasets: [{type: alpaca}]", r"datasets\[0\] names no path"),
        ("datasets: [{path: json, data_files: []}]", r"datasets\[0\] names no path"),
        ("datasets: d.jsonl", "'datasets' cannot be 'd.jsonl'"),
        ("optimizer: [a]", r"'optimizer' cannot be \['a'\]"),
        ("micro_batch_size: auto", "'micro_batch_size' cannot be 'auto': not a number"),
        ("per_device_train_batch_size: 0", "'per_device_train_batch_size' cannot be 0: a whole"),
        ("gradient_accumulation_steps: 1.5", "'gradient_accumulation_steps' cannot be 1.5"),
        ("sequence_len: .inf", "'sequence_len' cannot be inf"),
        ("learning_rate: true", "'learning_rate' cannot be True: not a number"),
        ("lora: yes please", "'lora' cannot be 'yes please'"),
        ("lora_target_modules: 5", "training.target_modules"),
    ],
)
def test_what_cannot_be_followed_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load(tmp_path, f"base_model: nano\n{line}\n")
    assert "axolotl.yaml" in str(raised.value)


def test_a_length_in_quotes_is_a_number(tmp_path: Path) -> None:
    config = load(tmp_path, 'base_model: nano\nsequence_len: "2048"\nmicro_batch_size: 2\n')
    assert config.dataset.window == 2048
    assert config.training.batch_tokens == config.training.micro_batch_tokens == 4096


def ignored(text: str) -> tuple[dict[str, Any], list[str]]:
    """Our options for a file with these lines, and what of it is said to be ignored."""
    return axolotl.read(yaml.safe_load(f"base_model: nano\n{text}"), "axolotl.yaml")


@pytest.mark.parametrize(
    ("entry", "format", "columns", "left"),
    [
        ("type: completion, field: content", "text", {"text": "content"}, []),
        ("type: completion", "text", {}, []),
        ("type: alpaca, field: content, split: train", "alpaca", {}, ["field", "split"]),
        ("type: chat_template, field_messages: turns", "messages", {"messages": "turns"}, []),
        ("type: sharegpt, field_messages: turns", "sharegpt", {"conversations": "turns"}, []),
        (
            "type: {field_instruction: q, field_output: a, format: '{q}'}, shards: 3",
            "alpaca",
            {"instruction": "q", "output": "a"},
            ["type.format", "shards"],
        ),
        ("type: gpteacher, field_output: a", "auto", {"output": "a"}, ["type"]),
        ("data_files: [x.jsonl]", "alpaca", {}, ["data_files"]),
    ],
)
def test_what_a_set_says_is_followed_or_named(
    entry: str, format: str, columns: dict[str, str], left: list[str]
) -> None:
    found, named = ignored(f"datasets: [{{path: d.jsonl, ds_type: json, {entry}}}]")
    (mixed,) = found["dataset"]["mix"]
    assert (mixed["path"], mixed["format"], mixed["columns"]) == ("d.jsonl", format, columns)
    assert named == [f"datasets[0].{key}" for key in left]


def test_every_file_of_a_set_is_read(tmp_path: Path) -> None:
    sets = "[{path: json, data_files: [a.jsonl, b.jsonl]}, {path: c.jsonl}]"
    mix = load(tmp_path, f"base_model: nano\ndatasets: {sets}\n").dataset.mix
    assert [(one.path, one.weight) for one in mix] == [
        ("a.jsonl", 0.5),
        ("b.jsonl", 0.5),
        ("c.jsonl", 1.0),
    ]


@pytest.mark.parametrize(
    ("text", "method", "rank", "left"),
    [
        ("lora: {rank: 8, alpha: 16}", "lora", 8, []),
        ("lora: true", "lora", None, []),
        ("lora: {}", "lora", None, []),
        ("lora: false", "full", None, []),
        ("lora: {use_dora: true}", "dora", None, []),
        (
            "adapter: lora\nload_in_4bit: true\npeft_use_dora: true",
            "qlora",
            None,
            ["peft_use_dora"],
        ),
        ("num_train_epochs: 3\nnum_epochs: 2", "full", None, ["num_train_epochs"]),
        ("sample_packing: false", "full", None, ["sample_packing"]),
        ("sample_packing: true", "full", None, []),
    ],
)
def test_the_method_and_what_of_it_is_left_out(
    text: str, method: str, rank: int | None, left: list[str]
) -> None:
    found, named = ignored(text)
    assert (found["training"]["method"], found["training"].get("rank")) == (method, rank)
    assert named == left


@pytest.mark.parametrize("method", ["lora", "qlora", "qlora8", "dora", "full"])
def test_what_is_written_is_read_back(tmp_path: Path, method: str) -> None:
    ours = ProjectConfig.load(
        {
            "base": "Qwen/Qwen2.5-Coder-1.5B",
            "dataset": {"window": 512},
            "training": {
                "method": method,
                "rank": 8,
                "alpha": 16,
                "epochs": 2,
                "learning_rate": 1e-4,
                "micro_batch_tokens": 1024,
                "batch_tokens": 8192,
                "optimizer": "muon",
                "schedule": "constant",
                "target_modules": ["q_proj"],
            },
        },
        "test",
    )
    written = axolotl.write(ours.model_dump(mode="json"), "train.jsonl")
    again = load(tmp_path, yaml.safe_dump(written))
    names = ["method", "epochs", "learning_rate", "batch_tokens", "micro_batch_tokens"]
    names += ["optimizer", "schedule", "warmup", "seed", "weight_decay", "clip", "precision"]
    if method != "full":
        names += ["rank", "alpha", "rslora", "target_modules", "dropout"]
    for name in names:
        assert getattr(again.training, name) == getattr(ours.training, name), name
    assert (again.base, again.dataset.window) == (ours.base, ours.dataset.window)


@pytest.mark.parametrize("tool", ["axolotl", "llamafactory", "trl"])
def test_command_writes_each(tool: str, tmp_path: Path) -> None:
    output = tmp_path / "out.yaml"
    arguments = ["--base", "my/base", "--output", str(output), "--set", "training.method=qlora"]
    result = CliRunner().invoke(export_config, [tool, *arguments])
    assert result.exit_code == 0, result.output
    values = yaml.safe_load(output.read_text())
    assert "my/base" in (values.get("base_model"), values.get("model_name_or_path"))
    assert "fill-in-the-middle" in result.output
    assert "codetune data write ARTIFACT data/train.jsonl" in result.stderr
    named = {"axolotl": "data/train.jsonl", "llamafactory": "train", "trl": "data"}[tool]
    sets = [one["path"] for one in values.get("datasets", [])]
    assert named in (*sets, values.get("dataset"), values.get("dataset_name"))
    own = CliRunner().invoke(export_config, [tool, "--data", "mine.jsonl"])
    assert "mine.jsonl" in own.stdout and "data write" not in own.stderr
    assert cli.get_command(None, "export-config") is export_config  # type: ignore[arg-type, attr-defined]


@pytest.mark.parametrize(
    ("training", "rate"),
    [
        ({"method": "lora"}, 2e-4),
        ({"method": "full"}, 3e-5),
        ({"method": "full", "learning_rate_scale": 0.3}, 9e-6),
        ({"method": "full", "learning_rate_scale": 0.3, "learning_rate": 1e-3}, 1e-3),
    ],
)
def test_the_rate_is_the_methods_own(training: dict[str, Any], rate: float) -> None:
    config = ProjectConfig.load({"training": training}, "test").model_dump(mode="json")
    for write in (axolotl.write, others.llamafactory, others.trl):
        assert write(config, "data")["learning_rate"] == rate


def test_what_the_other_tool_does_not_do_is_named() -> None:
    def lost(dataset: dict[str, Any], training: dict[str, Any]) -> list[str]:
        config = ProjectConfig.load({"dataset": dataset, "training": training}, "test")
        return [
            line.partition(":")[0] for line in others.lost(config.model_dump(mode="json"), "trl")
        ]

    mix = [{"name": "chats", "path": "chats.jsonl", "weight": 1.0}]
    assert lost({"use_sft": True, "mix": mix}, {"optimizer": "muon"}) == [
        "training.optimizer",
        "dataset.use_fim",
        "training.gap_weight",
        "dataset.use_sft",
        "dataset.mix",
        "dataset.replay_share",
        "training.distillation",
        "training.forgetting_limit",
    ]
    assert lost({"use_fim": False, "replay_share": 0}, {"forgetting_limit": None}) == []


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out\.yaml cannot be written: No such file"):
        cli.main(
            ["export-config", "trl", "--output", str(tmp_path / "none" / "out.yaml")],
            standalone_mode=False,
        )


# Fields of src/llamafactory/hparams/{model,data,finetuning}_args.py of LLaMA-Factory v0.9.5 that
# have to do with these methods; its TrainingArguments inherit transformers' own.
LLAMAFACTORY = {
    *("model_name_or_path", "adapter_name_or_path", "cache_dir", "flash_attn", "use_unsloth"),
    *("disable_gradient_checkpointing", "enable_liger_kernel", "upcast_layernorm"),
    *("quantization_method", "quantization_bit", "quantization_type", "double_quantization"),
    *("template", "dataset", "eval_dataset", "dataset_dir", "cutoff_len", "train_on_prompt"),
    *("mask_history", "streaming", "max_samples", "val_size", "packing", "neat_packing"),
    *("stage", "finetuning_type", "lora_alpha", "lora_dropout", "lora_rank", "lora_target"),
    *("loraplus_lr_ratio", "use_rslora", "use_dora", "pissa_init", "use_muon", "use_galore"),
    *("pure_bf16", "plot_loss"),
}


@pytest.mark.parametrize("method", ["lora", "full", "dora", "qlora", "qlora8"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_llamafactory_knows_every_key(method: str, checkpointing: bool) -> None:
    from dataclasses import fields

    from transformers import Seq2SeqTrainingArguments

    inherited = {field.name for field in fields(Seq2SeqTrainingArguments)}
    # In all of transformers 4.55 to 5.6, which it asks for; gone since.
    known = LLAMAFACTORY | inherited | {"warmup_ratio"}
    training = {"method": method, "max_steps": 3, "optimizer": "muon", "target_modules": ["q"]}
    training["gradient_checkpointing"] = checkpointing
    config = ProjectConfig.load({"training": training}, "test")
    written = others.llamafactory(config.model_dump(mode="json"), "ours")
    assert written.keys() <= known
    assert "neat_packing" not in written  # its parser refuses it in stage pt
    assert written.get("disable_gradient_checkpointing", False) is not checkpointing
    assert ("use_rslora" in written) == (method != "full")  # refused for full tuning
    assert written["use_muon"] is True


def test_trl_takes_every_key() -> None:
    """TRL's own argument classes, as its command line puts them together."""
    trl = pytest.importorskip("trl")
    from dataclasses import fields

    from trl.scripts.utils import ScriptArguments

    kinds = (trl.SFTConfig, trl.ModelConfig, ScriptArguments)
    known = {field.name: kind for kind in kinds for field in fields(kind)}
    config = ProjectConfig.load({"training": {"method": "qlora", "max_steps": 3}}, "test")
    written = others.trl(config.model_dump(mode="json"), "data")
    assert written.keys() <= known.keys()
    model = {key: value for key, value in written.items() if known[key] is trl.ModelConfig}
    assert trl.ModelConfig(**model).load_in_4bit
