"""A byte-level BPE tokenizer in a GGUF file's header: tokens, merges, and what ends an answer."""

from __future__ import annotations

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
_FIM_KEYS = {"prefix": "FIM_PRE_ID", "suffix": "FIM_SUF_ID", "middle": "FIM_MID_ID"}
_HEADER_KEYS = {"repo": "FIM_REP_ID", "file": "FIM_SEP_ID"}
ORDER_KEY = "codetune.fim_order"  # in which the model fills gaps best; llama.cpp: --spm-infill


def add_vocabulary(writer: Any, source: Source, size: int) -> None:
    """Write the tokenizer; `size` is the number of the embedding's rows.

    Raises:
        ExportError: it is no byte-level BPE, or splits text by a rule without a name.
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
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    merges = spec["model"].get("merges") or []
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
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
    if number in control:
        return int(gguf.TokenType.CONTROL)
    return int(gguf.TokenType.USER_DEFINED if number in added else gguf.TokenType.NORMAL)
