"""Tiny tokenizers with the special tokens of each FIM family, built as the real ones are."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from codetune.models.prompts import Renderer

TEXT = [
    "def total(items):\n    return sum(item.price for item in items)\n\n\n",
    "class Basket:\n    def __init__(self) -> None:\n        self.items = []\n",
    'func main() {\n\tfmt.Println("hello", 42)\n}\n',
    "if (x == null) { return <fim_prefix>; } // <|endoftext|> grüße 你好 🙂\n",
] * 8

QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>"]
QWEN += ["<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
STARCODER = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]
STARCODER += ["<repo_name>", "<file_sep>"]
DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜fim▁hole｜>"]
DEEPSEEK += ["<｜fim▁begin｜>", "<｜fim▁end｜>"]
CODELLAMA = ["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"]

# name → the config files beside tokenizer.json
CONFIGS = {
    "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "starcoder": {"eos_token": "<|endoftext|>"},
    "codellama": {"eos_token": "</s>", "bos_token": {"content": "<s>"}, "add_bos_token": True},
    "deepseek": {
        "eos_token": {"content": "<｜end▁of▁sentence｜>"},
        "bos_token": "<｜begin▁of▁sentence｜>",
        "add_bos_token": True,
    },
    "gpt2": {"eos_token": "<|endoftext|>"},
}
FAMILIES = sorted(CONFIGS)
WITH_FIM = [name for name in FAMILIES if name != "gpt2"]


def write_base(folder: Path, family: str, **more: object) -> Path:
    """A base's folder without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_tokenizer(family))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIGS[family] | more))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 256}))
    return folder


@cache
def renderer(family: str) -> Renderer:
    """The family's renderer, made once."""
    return Renderer.from_folder(write_base(Path(mkdtemp()), family))


@cache
def _tokenizer(family: str) -> str:
    builders = {"qwen": _qwen, "codellama": _codellama, "deepseek": _deepseek}
    names = {"starcoder": STARCODER, "gpt2": ["<|endoftext|>"]}
    builder = builders.get(family)
    return (builder() if builder else _byte_level(names[family])).to_str()


def _byte_level(special: list[str], split: str = "") -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # Control tokens that stand in the model's own vocabulary, as StarCoder's do.
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _qwen() -> Tokenizer:
    """As Qwen2.5-Coder: NFC, tokens behind the vocabulary, the FIM ones not flagged special."""
    tokenizer = _byte_level([], QWEN_SPLIT)
    tokenizer.normalizer = normalizers.NFC()
    for name in QWEN:
        flagged = "fim" not in name and name not in ("<|repo_name|>", "<|file_sep|>")
        tokenizer.add_tokens([AddedToken(name, special=flagged, normalized=False)])
    return tokenizer


def _deepseek() -> Tokenizer:
    """As DeepSeek-Coder: begin-of-text added by the template, letters among the added tokens."""
    tokenizer = _byte_level([])
    tokenizer.add_tokens([AddedToken("õ", special=False, normalized=True)])
    tokenizer.add_tokens([AddedToken(name, special=True) for name in DEEPSEEK])
    begin = DEEPSEEK[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer


def _codellama() -> Tokenizer:
    """As CodeLlama: SentencePiece BPE with byte fallback and a blank put before every text."""
    special = ["<unk>", "<s>", "</s>"]
    data = [f"<0x{n:02X}>" for n in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    alphabet = sorted({c for text in TEXT for c in text.replace(" ", "▁") if ord(c) < 0x2600})
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(data) + 200,
        special_tokens=special + data,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([line for text in TEXT for line in text.split()], trainer)
    spec = json.loads(tokenizer.to_str())
    # Bytes are pieces of the vocabulary there, not added tokens.
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_tokens([AddedToken(n, special=True, normalized=False) for n in CODELLAMA])
    return tokenizer
