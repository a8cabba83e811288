"""What goes along with weights so that another program speaks to them as training did."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from codetune.artifacts import write_json
from codetune.export.source import Source
from codetune.models.load import read_json
from codetune.models.prompts import Renderer
from codetune.models.prompts.templates import TEMPLATE_FILE

_CONFIG, _GENERATION = "tokenizer_config.json", "generation_config.json"
_AS_THEY_ARE = (
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def write_speech(source: Source, folder: Path) -> None:
    """Write tokenizer, chat template, order of gaps (`fim_order`) and stop tokens."""
    for name in _AS_THEY_ARE:
        if (source.tokenizer / name).is_file():
            shutil.copyfile(source.tokenizer / name, folder / name)
    config = _read(source.tokenizer / _CONFIG)
    # One place for the template: the file beside the weights, which transformers prefers, too.
    config.pop("chat_template", None)
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    write_json(folder / _CONFIG, config)
    (folder / TEMPLATE_FILE).write_text(source.renderer.template, encoding="utf-8")
    write_json(folder / _GENERATION, generation(source))


def generation(source: Source) -> dict[str, Any]:
    """generation_config.json: the base's own, with every token that ends an answer."""
    known = _read(source.whole / _GENERATION)
    return known | {
        "eos_token_id": stops(source),
        "pad_token_id": known.get("pad_token_id", source.renderer.pad_id),
    }


def stops(source: Source) -> list[int]:
    """The tokens at which any answer of the model ends, the end of a text first."""
    renderer = source.renderer
    known = _read(source.whole / _GENERATION).get("eos_token_id")
    own = known if isinstance(known, list) else [] if known is None else [known]
    others = {*map(int, own), *renderer.chat_stops, *renderer.fim_stops} - {renderer.eos_id}
    return [renderer.eos_id, *sorted(others)]


def says_the_same(ours: Renderer, theirs: Renderer, texts: list[str]) -> bool:
    """Whether two renderers write the same ids: of texts, a gap and a conversation."""
    if any(ours.plain(text) != theirs.plain(text) for text in texts):
        return False
    if (ours.fim, ours.order, ours.chat_stops) != (theirs.fim, theirs.order, theirs.chat_stops):
        return False
    asked = [{"role": "user", "content": texts[0]}]
    return ours.chat(asked) == theirs.chat(asked)


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
