"""LLaMA-Factory's and TRL's configurations, written from ours.

LLaMA-Factory's keys: the dataclasses of `src/llamafactory/hparams` in v0.9.5 and, for what it
inherits, transformers' `Seq2SeqTrainingArguments`. TRL's: the fields of `SFTConfig`, `ModelConfig`
and `ScriptArguments`, as `trl sft --config FILE` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codetune.bridges.keys import USUAL_RANK, learning_rate

_WINDOW = 1024  # tokens, where the options name none
_OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw8bit": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "adafactor": "adafactor",
    "muon": "adamw_torch_fused",
}
_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def llamafactory(config: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Keys for `llamafactory-cli train FILE`; `data` is a set of its dataset_info.json."""
    training = config["training"]
    method = training["method"]
    values: dict[str, Any] = {
        "model_name_or_path": config["base"],
        "stage": "pt",
        "do_train": True,
        "finetuning_type": "full" if method == "full" else "lora",
        "dataset": data,
        "cutoff_len": config["dataset"]["window"] or _WINDOW,
        # `neat_packing`, which keeps documents apart, is refused there for any stage but sft.
        "packing": True,
        "output_dir": "outputs",
        **_arguments(config),
    }
    # It checkpoints activations whatever the Trainer's own key says, unless this one is set.
    if not values.pop("gradient_checkpointing"):
        values["disable_gradient_checkpointing"] = True
    if training["optimizer"] == "muon":
        values["use_muon"] = True
    if method != "full":
        rank = training["rank"] or USUAL_RANK
        values |= {
            "lora_rank": rank,
            "lora_alpha": round(training["alpha"] or rank),
            "lora_dropout": training["dropout"],
            "lora_target": ",".join(training["target_modules"] or ["all"]),
            "use_rslora": training["rslora"],
            "use_dora": method == "dora",
        }
    if method in ("qlora", "qlora8"):
        values |= {
            "quantization_bit": 4 if method == "qlora" else 8,
            "quantization_method": "bnb",
        }
    return values


def trl(config: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Keys for `trl sft --config FILE`; `data` is a folder or hub name of a data set."""
    training = config["training"]
    method = training["method"]
    values: dict[str, Any] = {
        "model_name_or_path": config["base"],
        "dataset_name": data,
        "max_length": config["dataset"]["window"] or _WINDOW,
        "packing": True,
        "output_dir": "outputs",
        **_arguments(config),
    }
    # transformers 5, which TRL is on, has one key for both: below 1 it is a share.
    values["warmup_steps"] = values.pop("warmup_ratio")
    if method != "full":
        rank = training["rank"] or USUAL_RANK
        values |= {
            "use_peft": True,
            "lora_r": rank,
            "lora_alpha": round(training["alpha"] or rank),
            "lora_dropout": training["dropout"],
            "lora_target_modules": training["target_modules"] or ["all-linear"],
            "use_rslora": training["rslora"],
            "use_dora": method == "dora",
            "load_in_4bit": method == "qlora",
            "load_in_8bit": method == "qlora8",
        }
    return values


def lost(config: Mapping[str, Any], tool: str) -> list[str]:
    """What of our options `tool` (axolotl, llamafactory, trl) does not do, in words."""
    training, dataset, found = config["training"], config["dataset"], []
    if training["optimizer"] == "muon" and tool == "trl":
        found.append("training.optimizer: muon is written as AdamW")
    if tool == "llamafactory":
        found.append("isolation: packed documents see each other there in stage pt")
    if dataset["use_fim"] is not False and dataset["fim_rate"] > 0:
        found.append("dataset.use_fim: fill-in-the-middle examples must come with the data")
        if training["gap_weight"] != 1:
            found.append("training.gap_weight: the tokens that fill a gap weigh as all others")
    if dataset["use_sft"]:
        found.append("dataset.use_sft: instructions must come with the data")
    if dataset["mix"]:
        found.append("dataset.mix: add these sets yourself")
    if dataset["replay_share"] > 0:
        found.append(
            "dataset.replay_share: general code is a stream of its own, replay: add it to the data"
        )
        if training["distillation"] != 0 and training["method"] != "full":
            found.append("training.distillation: general code is learned as any other text")
    if training["forgetting_limit"] is not None:
        found.append("training.forgetting_limit: the weights stay where training leaves them")
    return found


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The transformers' TrainingArguments that both tools pass on."""
    training = config["training"]
    window = config["dataset"]["window"] or _WINDOW
    micro = max(1, (training["micro_batch_tokens"] or 4 * window) // window)
    batch = max(1, (training["batch_tokens"] or 16 * window) // window)
    values: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, round(batch / micro)),
        "num_train_epochs": training["epochs"],
        "learning_rate": learning_rate(training),
        "lr_scheduler_type": _SCHEDULES[training["schedule"]],
        "optim": _OPTIMIZERS[training["optimizer"]],
        "warmup_ratio": training["warmup"],
        "weight_decay": training["weight_decay"],
        "max_grad_norm": training["clip"],
        "seed": training["seed"],
        "gradient_checkpointing": training["gradient_checkpointing"],
        "bf16": training["precision"] != "fp32",
    }
    if training["max_steps"]:
        values["max_steps"] = training["max_steps"]
    return values
