"""A BPE tokenizer in a GGUF file's header: tokens, merges, and what ends an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codetune.errors import ExportError
from codetune.export.source import Source
from codetune.models.load import read_json

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# How a tokenizer splits text before merging → llama.cpp's name for that. There is no other way to
# say it in a GGUF file, so a rule without a name cannot be written.
SPLITS: Mapping[tuple[str, ...], str] = {
    (f"split {_QWEN2}", "bytes"): "qwen2",
    (f"split {_LLAMA3}", "bytes"): "llama-bpe",
    ("bytes by words",): "gpt-2",
    ("digits", "bytes by words"): "starcoder",
}
PIECES = "pieces"  # of SentencePiece, which llama.cpp tells apart by another key
_FIM_KEYS = {"prefix": "FIM_PRE_ID", "suffix": "FIM_SUF_ID", "middle": "FIM_MID_ID"}
_HEADER_KEYS = {"repo": "FIM_REP_ID", "file": "FIM_SEP_ID"}
ORDER_KEY = "codetune.fim_order"  # in which the model fills gaps best; llama.cpp: --spm-infill


def add_vocabulary(writer: Any, source: Source, size: int) -> None:
    """Write the tokenizer; `size` is the number of the embedding's rows.

    Raises:
        ExportError: it is no BPE that llama.cpp has, or splits text by a rule without a name.
    """
    import gguf

    spec = read_json(source.tokenizer / "tokenizer.json")
    rule = split_of(spec, source.tokenizer)
    renderer = source.renderer
    by_id = _tokens(spec)
    if max(by_id) >= size:
        raise ExportError(
            f"The tokenizer has the token {max(by_id)}, and the model only {size} of them.",
            advice="Export as safetensors.",
        )
    names = [by_id.get(number, f"[PAD{number}]") for number in range(size)]
    added = {int(token["id"]) for token in spec.get("added_tokens") or []}
    control = set(renderer.markup.values())
    kinds = [_kind(number, by_id, control, added) for number in range(size)]
    if rule == PIECES:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(spec, names))
        # Texts are learned as they are: the blank that SentencePiece puts before is not.
        writer.add_add_space_prefix(False)
        writer.add_unk_token_id(spec["model"]["vocab"][spec["model"]["unk_token"]])
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(rule)
        writer.add_token_merges(_merges(spec))
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_eos_token_id(renderer.eos_id)
    writer.add_pad_token_id(renderer.pad_id)
    writer.add_add_bos_token(renderer.bos_id is not None)
    if renderer.bos_id is not None:
        writer.add_bos_token_id(renderer.bos_id)
    if (turn := end_of_turn(source)) is not None:
        writer.add_eot_token_id(turn)
    writer.add_chat_template(renderer.template)
    keys = gguf.Keys.Tokenizer
    if renderer.fim is not None:
        for field, key in (_FIM_KEYS | _HEADER_KEYS).items():
            if (token := getattr(renderer.fim, field)) is not None:
                writer.add_uint32(getattr(keys, key), token)
        if (pad := renderer.markup.get(renderer.fim.family.pad)) is not None:
            writer.add_uint32(keys.FIM_PAD_ID, pad)
        writer.add_string(ORDER_KEY, renderer.order)


def end_of_turn(source: Source) -> int | None:
    """The token that ends an answer in the chat template, where it is not the end of a text."""
    renderer = source.renderer
    ends = renderer.chat_stops - renderer.fim_stops
    written = [t for t in ends if renderer.decode([t], keep_control=True) in renderer.template]
    return min(written) if written else None


def split_of(spec: Mapping[str, Any], folder: Path) -> str:
    """llama.cpp's name for how a tokenizer.json splits text.

    Raises:
        ExportError: it has none.
    """
    model = spec["model"]
    normalizer = (spec.get("normalizer") or {}).get("type")
    steps = tuple(_step(step) for step in _steps(spec.get("pre_tokenizer")))
    # NFC is Qwen's: llama.cpp leaves it out, and so does our own renderer.
    if model.get("type") == "BPE" and model.get("byte_fallback") and _is_pieces(spec):
        return PIECES
    plain = model.get("type") == "BPE" and not model.get("byte_fallback")
    if plain and not model.get("merges"):
        raise ExportError(
            f"{folder / 'tokenizer.json'} has no merges, without which llama.cpp loads no file.",
            advice="Export as safetensors.",
        )
    if plain and normalizer in (None, "NFC") and steps in SPLITS:
        return SPLITS[steps]
    what = " then ".join(steps) if plain else f"{model.get('type')} with byte fallback"
    raise ExportError(
        f"{folder / 'tokenizer.json'} splits text by a rule that llama.cpp has no name for "
        f"here: {what or 'none'}.",
        advice=f"Known: {', '.join(sorted(SPLITS.values()))}. Export as safetensors, which "
        "llama.cpp's own converter reads.",
    )


def _is_pieces(spec: Mapping[str, Any]) -> bool:
    """Whether it is SentencePiece's BPE as Llama 2 and CodeLlama have it: blanks become ▁."""
    normalizer, splitter = spec.get("normalizer") or {}, spec.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    replaced = any(s.get("type") == "Replace" and s.get("content") == "▁" for s in steps)
    known = all(s.get("type") in ("Prepend", "Replace") for s in steps)
    whole = splitter.get("type") == "Metaspace" and not splitter.get("split", True)
    return bool(spec["model"].get("unk_token")) and (
        (replaced and known and not splitter) or (whole and not steps)
    )


def _merges(spec: Mapping[str, Any]) -> list[str]:
    merges = spec["model"].get("merges") or []
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _scores(spec: Mapping[str, Any], names: list[str]) -> list[float]:
    """How early each piece is put together: SentencePiece's scores, from the order of merges."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(_merges(spec)):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(ranks[name]) if name in ranks else 0.0 for name in names]


def _steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    if part.get("type") == "Sequence":
        return [inner for each in part["pretokenizers"] for inner in _steps(each)]
    return [part]


def _step(step: Mapping[str, Any]) -> str:
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "bytes by words" if step.get("use_regex", True) else "bytes"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return f"split {step['pattern'].get('Regex')}"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    return str(dict(step))


def _tokens(spec: Mapping[str, Any]) -> dict[int, str]:
    by_id = {int(number): token for token, number in spec["model"]["vocab"].items()}
    return by_id | {int(t["id"]): str(t["content"]) for t in spec.get("added_tokens") or []}


def _kind(number: int, known: Mapping[int, str], control: set[int], added: set[int]) -> int:
    import gguf

    if number not in known:
        return int(gguf.TokenType.UNUSED)
    if re.fullmatch(r"<0x[0-9A-F]{2}>", known[number]):
        return int(gguf.TokenType.BYTE)
    if known[number] == "<unk>":
        return int(gguf.TokenType.UNKNOWN)
    if number in control:
        return int(gguf.TokenType.CONTROL)
    return int(gguf.TokenType.USER_DEFINED if number in added else gguf.TokenType.NORMAL)
