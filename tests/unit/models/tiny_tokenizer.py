"""A tokenizer file whose tokens are the characters of ASCII: token 0 ends a text."""

from __future__ import annotations

import json
from pathlib import Path

CHARACTERS = 128


def write_characters(folder: Path) -> None:
    """Write tokenizer.json and its config; what is not ASCII becomes token 1."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    vocabulary = {chr(number): number for number in range(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="\x01"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "\x00"}))
