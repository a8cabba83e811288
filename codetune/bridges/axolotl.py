"""Axolotl's YAML, read and written.

Keys as in Axolotl's configuration reference (docs.axolotl.ai/docs/config-reference.html), and
besides them the short forms that are seen in the wild: a `lora:` block with r (or rank), alpha
and dropout, or `lora: true`; `load_in_4bit: true` without an adapter's name;
`per_device_train_batch_size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codetune.bridges import axolotl_sets
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
_TEMPLATES = {
    "chatml": "chatml",
    "alpaca": "alpaca",
    "llama2": "llama2",
    "tokenizer_default": "base",
}
_DEFAULT_WINDOW = 1024  # tokens, where the file names none
_RANKS = ("lora_r", "lora.r", "lora.rank")
_SWITCHES = {"flash_attention", "sdp_attention", "attn_implementation"}


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
    window = _whole(keys, where, "sequence_len", "max_seq_length")
    micro, accumulation = _batches(keys, where)
    tokens = (window or _DEFAULT_WINDOW) * (micro or 1)
    batch = tokens * (accumulation or 1)
    told = micro is not None or accumulation is not None
    sets, ignored = axolotl_sets.read(keys.take("datasets"), where)
    found: dict[str, Any] = {
        "base": keys.take("base_model"),
        "dataset.window": window,
        "dataset.template": _named(keys, _TEMPLATES, where, "chat_template"),
        "training.method": method,
        "training.rank": keys.take(*_RANKS),
        "training.alpha": keys.take("lora_alpha", "lora.alpha", "lora.lora_alpha"),
        "training.dropout": keys.take("lora_dropout", "lora.dropout", "lora.lora_dropout"),
        "training.rslora": _rslora(keys, method),
        "training.target_modules": _targets(keys),
        "training.epochs": keys.take("num_epochs", "num_train_epochs"),
        "training.max_steps": _positive(keys.take("max_steps")),
        "training.learning_rate": _number(keys, where, "learning_rate", "lr"),
        "training.schedule": _named(keys, _SCHEDULES, where, "lr_scheduler", "lr_scheduler_type"),
        "training.optimizer": _named(keys, _OPTIMIZERS, where, "optimizer", "optim"),
        "training.weight_decay": keys.take("weight_decay"),
        "training.clip": keys.take("max_grad_norm"),
        "training.warmup": keys.take("warmup_ratio"),
        "training.seed": keys.take("seed"),
        "training.gradient_checkpointing": keys.take("gradient_checkpointing"),
        "training.precision": _precision(keys),
        "training.micro_batch_tokens": tokens if told else None,
        "training.batch_tokens": batch if told else None,
        "dataset.mix": sets,
    }
    if keys.take("sample_packing") is False:
        keys.ignore("sample_packing")  # rows are packed here, whatever it says
    rest = [key for key in keys.rest() if key not in _SWITCHES]
    return nested(found), [*rest, *ignored]


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
    name, dora = keys.take_with_name("peft_use_dora", "lora.use_dora")
    lora = _switched_on(keys, where) or bool(keys.take("lora_r"))
    if adapter not in (None, "", "lora", "qlora"):
        raise ConfigError(
            f"{where}: option 'adapter' cannot be {adapter!r}.", advice="Known: lora, qlora."
        )
    if four or eight or adapter == "qlora":
        if dora:
            keys.ignore(name)  # DoRA needs the base's own weights here
        return "qlora" if four or adapter == "qlora" else "qlora8"
    if dora:
        return "dora"
    return "lora" if adapter == "lora" or lora else "full"


def _switched_on(keys: Keys, where: str) -> bool:
    """Whether there is a `lora:` block, or `lora: true`."""
    block = keys.has_section("lora")
    said = keys.take("lora")
    if not block and said not in (None, True, False):
        raise ConfigError(
            f"{where}: option 'lora' cannot be {said!r}.",
            advice="It is true, false or a section with r, alpha and dropout.",
        )
    return block or bool(said)


def _rslora(keys: Keys, method: str) -> bool | None:
    """Axolotl divides by the rank unless it is told otherwise."""
    said = keys.take("peft_use_rslora", "lora.use_rslora")
    return None if method == "full" else bool(said)


def _targets(keys: Keys) -> Any:
    every = keys.take("lora_target_linear")
    named = keys.take("lora_target_modules", "lora.target_modules")
    if every or not named or named == "all-linear":
        return None
    return [named] if isinstance(named, str) else named


def _batches(keys: Keys, where: str) -> tuple[int | None, int | None]:
    micro = _whole(keys, where, "micro_batch_size", "per_device_train_batch_size")
    return micro, _whole(keys, where, "gradient_accumulation_steps")


def _precision(keys: Keys) -> str | None:
    bf16 = keys.take("bf16", "bfloat16")
    fp32 = keys.take("fp32")
    if fp32:
        return "fp32"
    return "bf16" if bf16 is True else None


def _positive(value: Any) -> Any:
    """-1 is the transformers' word for "no limit"."""
    return None if value is None or value == -1 else value


def _number(keys: Keys, where: str, *names: str) -> float | None:
    """YAML 1.1 reads 2e-4 as text, and true is a number to Python."""
    key, value = keys.take_with_name(*names)
    try:
        if isinstance(value, bool):
            raise TypeError
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: option '{key}' cannot be {value!r}: not a number.") from error


def _whole(keys: Keys, where: str, *names: str) -> int | None:
    """A count, at least 1."""
    number = _number(keys, where, *names)
    if number is None:
        return None
    if number < 1 or not number.is_integer():
        key, value = keys.take_with_name(*names)
        raise ConfigError(
            f"{where}: option '{key}' cannot be {value!r}: a whole number from 1 on was expected."
        )
    return int(number)


def _named(keys: Keys, known: Mapping[str, str], where: str, *names: str) -> str | None:
    key, value = keys.take_with_name(*names)
    if value is None:
        return None
    if not isinstance(value, str) or value not in known:
        raise ConfigError(
            f"{where}: option '{key}' cannot be {value!r} here.",
            advice=f"Known: {', '.join(known)}.",
        )
    return known[value]


def _back(known: Mapping[str, str], value: str) -> str:
    return next(theirs for theirs, ours in known.items() if ours == value)
