"""What the files of a base's tokenizer say besides how to split text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from codetune.errors import ModelError

# Of a gap's parts in a prompt (Bavarian et al., arXiv 2207.14255): prefix first; suffix first, the
# middle following the prefix as one text; the same with a mark between prefix and middle.
Order = Literal["psm", "spm", "spm-marked"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_END_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<eos>")
_ORDERS: tuple[Order, ...] = ("psm", "spm", "spm-marked")
_ORDER_KEY = "fim_order"  # in tokenizer_config.json: the order that a base was trained on most


def read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise broken(path, error) from error
    if not isinstance(value, dict):
        raise broken(path, TypeError("an object was expected"))
    return value


def broken(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} cannot be used: {error}.", advice="Download the base again.")


def name_of(token: Any) -> str:
    """A token's name; configs hold it as a string or as an AddedToken's fields."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def end_of_text(vocabulary: dict[str, int], family_end: str, config: dict[str, Any]) -> int:
    """The family's end of a file, else the config's; chat bases name the end of a turn there."""
    for name in (family_end, name_of(config.get("eos_token")), *_END_NAMES):
        if name in vocabulary:
            return vocabulary[name]
    raise ModelError(
        "The tokenizer names no end-of-text token.",
        advice='Add "eos_token" to its tokenizer_config.json.',
    )


def order_of(config: dict[str, Any]) -> Order:
    """Prefix first, unless the base says otherwise: the order in which all families are served."""
    return next((order for order in _ORDERS if order == config.get(_ORDER_KEY)), "psm")


def begin_of_text(
    empty: Callable[[], Sequence[int]], vocabulary: dict[str, int], config: dict[str, Any]
) -> int | None:
    """The token that the base's own tokenizer puts before every text, if it does so.

    `empty` gives the ids that this tokenizer makes of an empty text.
    """
    bos = vocabulary.get(name_of(config.get("bos_token")))
    if bos is None:
        return None
    return bos if config.get("add_bos_token") or bos in empty()[:1] else None
