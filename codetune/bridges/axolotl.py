"""Axolotl's YAML, read and written.

Keys as in Axolotl's configuration reference (docs.axolotl.ai/docs/config-reference.html), and
besides them the short forms that are seen in the wild: a `lora:` block with r, alpha and
dropout, `load_in_4bit: true` without an adapter's name, `per_device_train_batch_size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codetune.bridges.keys import USUAL_RANK, Keys, learning_rate, nested
from codetune.errors import ConfigError

_SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
_OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_8bit": "adamw8bit",
    "adamw_bnb_8bit": "adamw8bit",
    "paged_adamw_32bit": "paged_adamw",
    "paged_adamw_8bit": "adamw8bit",
    "adafactor": "adafactor",
    "muon": "muon",
}
_FORMATS = {
    "alpaca": "alpaca",
    "sharegpt": "sharegpt",
    "chat_template": "messages",
    "completion": "text",
    "input_output": "prompt-completion",
}
_TEMPLATES = {
    "chatml": "chatml",
    "alpaca": "alpaca",
    "llama2": "llama2",
    "tokenizer_default": "base",
}
_DEFAULT_WINDOW = 1024  # tokens, where the file names none
_SWITCHES = {"flash_attention", "sdp_attention", "attn_implementation", "sample_packing"}


def is_axolotl(values: Mapping[str, Any]) -> bool:
    """Whether a YAML mapping is Axolotl's: it names its base so, and ours never does."""
    return "base_model" in values


def read(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Our options for an Axolotl file, and the keys of it that have no meaning here.

    Raises:
        ConfigError: a key has a value that cannot be followed, naming it.
    """
    keys = Keys(values)
    method = _method(keys, where)
    window = keys.take("sequence_len", "max_seq_length")
    micro, accumulation, batch = _batches(keys)
    tokens = (window or _DEFAULT_WINDOW) * micro
    warmup = keys.take("warmup_ratio")
    found: dict[str, Any] = {
        "base": keys.take("base_model"),
        "dataset.window": window,
        "dataset.template": _named(keys.take("chat_template"), _TEMPLATES, "chat_template", where),
        "training.method": method,
        "training.rank": keys.take("lora_r", "lora.r"),
        "training.alpha": keys.take("lora_alpha", "lora.alpha", "lora.lora_alpha"),
        "training.dropout": keys.take("lora_dropout", "lora.dropout", "lora.lora_dropout"),
        "training.rslora": _rslora(keys, method),
        "training.target_modules": _targets(keys),
        "training.epochs": keys.take("num_epochs", "num_train_epochs"),
        "training.max_steps": _positive(keys.take("max_steps")),
        "training.learning_rate": _number(keys.take("learning_rate", "lr"), "learning_rate", where),
        "training.schedule": _named(
            keys.take("lr_scheduler", "lr_scheduler_type"), _SCHEDULES, "lr_scheduler", where
        ),
        "training.optimizer": _named(
            keys.take("optimizer", "optim"), _OPTIMIZERS, "optimizer", where
        ),
        "training.weight_decay": keys.take("weight_decay"),
        "training.clip": keys.take("max_grad_norm"),
        "training.warmup": warmup,
        "training.seed": keys.take("seed"),
        "training.gradient_checkpointing": keys.take("gradient_checkpointing"),
        "training.precision": _precision(keys),
        "training.micro_batch_tokens": tokens if batch else None,
        "training.batch_tokens": tokens * accumulation if batch else None,
        "dataset.mix": _datasets(keys, where),
    }
    return nested(found), [key for key in keys.rest() if key not in _SWITCHES]


def write(config: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Axolotl's keys for our options (as `ProjectConfig.model_dump` gives them).

    `data` is the JSON-lines file of completions (`text`) or chats that it is to train on.
    """
    training = config["training"]
    window = config["dataset"]["window"] or _DEFAULT_WINDOW
    micro = max(1, (training["micro_batch_tokens"] or 4 * window) // window)
    batch = max(1, (training["batch_tokens"] or 16 * window) // window)
    values: dict[str, Any] = {
        "base_model": config["base"],
        "datasets": [{"path": data, "ds_type": "json", "type": "completion", "field": "text"}],
        "sequence_len": window,
        "sample_packing": True,
        # What keeps packed documents apart there.
        "attn_implementation": "flash_attention_2",
        "micro_batch_size": micro,
        "gradient_accumulation_steps": max(1, round(batch / micro)),
        "num_epochs": training["epochs"],
        "optimizer": _back(_OPTIMIZERS, training["optimizer"]),
        "lr_scheduler": _back(_SCHEDULES, training["schedule"]),
        "learning_rate": learning_rate(training),
        "warmup_ratio": training["warmup"],
        "weight_decay": training["weight_decay"],
        "max_grad_norm": training["clip"],
        "seed": training["seed"],
        "gradient_checkpointing": training["gradient_checkpointing"],
        "bf16": {"auto": "auto", "bf16": True, "fp32": False}[training["precision"]],
        "output_dir": "./outputs",
    }
    if training["max_steps"]:
        values["max_steps"] = training["max_steps"]
    return values | _adapter(training)


def _adapter(training: Mapping[str, Any]) -> dict[str, Any]:
    method = training["method"]
    if method == "full":
        return {}
    targets, rank = training["target_modules"], training["rank"] or USUAL_RANK
    values: dict[str, Any] = {
        "adapter": "qlora" if method == "qlora" else "lora",
        "lora_r": rank,
        "lora_alpha": training["alpha"] or rank,
        "lora_dropout": training["dropout"],
        "peft_use_rslora": training["rslora"],
    }
    values |= {"lora_target_modules": list(targets)} if targets else {"lora_target_linear": True}
    if method in ("qlora", "qlora8"):
        values |= {"load_in_4bit": method == "qlora", "load_in_8bit": method == "qlora8"}
    if method == "dora":
        values["peft_use_dora"] = True
    return values


def _method(keys: Keys, where: str) -> str:
    adapter = keys.take("adapter")
    four, eight = keys.take("load_in_4bit"), keys.take("load_in_8bit")
    dora = keys.take("peft_use_dora")
    lora = bool(keys.take("lora_r", "lora.r"))
    if adapter not in (None, "", "lora", "qlora"):
        raise ConfigError(
            f"{where}: option 'adapter' cannot be {adapter!r}.", advice="Known: lora, qlora."
        )
    if four or adapter == "qlora":
        return "qlora"
    if eight:
        return "qlora8"
    if dora:
        return "dora"
    return "lora" if adapter == "lora" or lora else "full"


def _rslora(keys: Keys, method: str) -> bool | None:
    """Axolotl divides by the rank unless it is told otherwise."""
    said = keys.take("peft_use_rslora", "lora.use_rslora")
    return None if method == "full" else bool(said)


def _targets(keys: Keys) -> list[str] | None:
    every = keys.take("lora_target_linear")
    named = keys.take("lora_target_modules", "lora.target_modules")
    if every or not named or named == "all-linear":
        return None
    return [named] if isinstance(named, str) else list(named)


def _batches(keys: Keys) -> tuple[int, int, bool]:
    micro = keys.take("micro_batch_size", "per_device_train_batch_size")
    accumulation = keys.take("gradient_accumulation_steps")
    return int(micro or 1), int(accumulation or 1), micro is not None or accumulation is not None


def _precision(keys: Keys) -> str | None:
    bf16 = keys.take("bf16", "bfloat16")
    fp32 = keys.take("fp32")
    if fp32:
        return "fp32"
    return "bf16" if bf16 is True else None


def _positive(value: Any) -> Any:
    """-1 is the transformers' word for "no limit"."""
    return None if value is None or value == -1 else value


def _number(value: Any, key: str, where: str) -> float | None:
    """YAML 1.1 reads 2e-4 as text."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: option '{key}' cannot be {value!r}: not a number.") from error


def _named(value: Any, known: Mapping[str, str], key: str, where: str) -> str | None:
    if value is None:
        return None
    if value not in known:
        raise ConfigError(
            f"{where}: option '{key}' cannot be {value!r} here.",
            advice=f"Known: {', '.join(known)}.",
        )
    return known[value]


def _back(known: Mapping[str, str], value: str) -> str:
    return next(theirs for theirs, ours in known.items() if ours == value)


def _datasets(keys: Keys, where: str) -> list[dict[str, Any]] | None:
    sets = keys.take("datasets")
    if not isinstance(sets, list):
        return None
    found = []
    for number, entry in enumerate(sets):
        if not isinstance(entry, Mapping) or "path" not in entry:
            raise ConfigError(f"{where}: datasets[{number}] names no path.")
        kind = str(entry.get("type", "alpaca")).partition(":")[0].partition(".")[0]
        path = entry["path"] if entry["path"] not in ("json", "csv") else entry.get("data_files")
        found.append(
            {
                "name": f"set-{number + 1}",
                "path": path[0] if isinstance(path, list) else path,
                "format": _FORMATS.get(kind, "auto"),
                "weight": 1.0,
            }
        )
    return found
