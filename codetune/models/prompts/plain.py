"""A tokenizer for which markup inside text is plain text.

`tokenizers` has a switch for this, `encode_special_tokens`, but it covers only added tokens
that are flagged special: the FIM tokens of Qwen2.5-Coder are not, and would be read out of a
source file as control tokens. So the markup is renamed, in a second copy of the tokenizer, to
names that nobody can guess: no text whatsoever reaches those ids, and no other id moves.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from tokenizers import Tokenizer

from codetune.models.prompts.families import FAMILIES

_KNOWN = frozenset(
    name
    for f in FAMILIES
    for name in (f.prefix, f.suffix, f.middle, f.end, f.end_of_text, f.repo, f.file, f.pad)
    if name
)
_HEADER_CHARACTERS = 200  # of a repository or path: the end says most
_BRACKETS = {"<": ">", "[": "]", "▁": ">"}


def markup_of(spec: dict[str, Any]) -> dict[str, int]:
    """Name → id of every control token of a parsed tokenizer.json.

    Added tokens that are runs of blanks or single letters (CodeGen, DeepSeek) are ordinary text.
    """
    found: dict[str, int] = {}
    for token in spec.get("added_tokens") or []:
        name = token["content"]
        if token.get("special") or _looks_like_markup(name):
            found[name] = token["id"]
    model = spec["model"]
    names = {model.get("unk_token")} | _KNOWN
    for name, number in _pairs(model):
        if name in names:
            found[name] = number
    return found


def _looks_like_markup(name: str) -> bool:
    name = name.strip()
    return len(name) > 2 and _BRACKETS.get(name[0]) == name[-1]


def _pairs(model: dict[str, Any]) -> list[tuple[str, int]]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return list(vocabulary.items())
    return [(piece, number) for number, (piece, _) in enumerate(vocabulary)]  # Unigram


def vocabulary_of(spec: dict[str, Any]) -> dict[str, int]:
    """Name → id of every token of a parsed tokenizer.json."""
    added = {token["content"]: token["id"] for token in spec.get("added_tokens") or []}
    return dict(_pairs(spec["model"])) | added


def plain_tokenizer(spec: dict[str, Any]) -> Tokenizer:
    """The tokenizer of `spec` that adds nothing, strips nothing and knows no markup."""
    aliases = {name: f"\U0010fffe{secrets.token_hex(16)}" for name in markup_of(spec)}
    model = dict(spec["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {aliases.get(n, n): i for n, i in model["vocab"].items()}
    else:
        model["vocab"] = [[aliases.get(n, n), score] for n, score in model["vocab"]]
    if model.get("merges"):
        model["merges"] = [m for m in model["merges"] if _merged(m) not in aliases]
    if model.get("unk_token"):
        model["unk_token"] = aliases[model["unk_token"]]
    changed = {
        "model": model,
        "added_tokens": [
            token | {"content": aliases.get(token["content"], token["content"])}
            for token in spec.get("added_tokens") or []
        ],
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "normalizer": _exact(spec.get("normalizer")),
        "pre_tokenizer": _exact(spec.get("pre_tokenizer")),
    }
    return Tokenizer.from_str(json.dumps(spec | changed))


def full_tokenizer(spec: dict[str, Any]) -> Tokenizer:
    """The tokenizer of `spec` for decoding: it gives back a leading blank that was encoded."""
    changed = {"truncation": None, "padding": None, "decoder": _exact(spec.get("decoder"))}
    return Tokenizer.from_str(json.dumps(spec | changed))


def _merged(merge: Any) -> str:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return str(left + right)


def _exact(part: Any) -> Any:
    """A normalizer, pre-tokenizer or decoder without the steps that add or drop characters.

    NFC (Qwen) is left out, too: a decomposed letter in a string literal must stay as it is, and
    llama.cpp does not compose it either.
    """
    if not isinstance(part, dict):
        return part
    if part.get("type") in ("Prepend", "NFC", "Strip"):
        return None
    for key in ("normalizers", "pretokenizers", "decoders"):
        if key in part:
            kept = [step for step in map(_exact, part[key]) if step is not None]
            return part | {key: kept} if kept else None
    if part.get("type") == "Metaspace":
        return part | {"prepend_scheme": "never"}
    if part.get("type") == "ByteLevel":
        return part | {"add_prefix_space": False, "trim_offsets": False}
    return part


def valid(text: str) -> str:
    """`text` without the lone surrogates that JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def one_line(text: str) -> str:
    """A repository's name or a path as a header holds it."""
    return " ".join(text.split("\n"))[-_HEADER_CHARACTERS:]
