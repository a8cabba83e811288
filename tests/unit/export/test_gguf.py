"""GGUF files: what stands in them, what llama.cpp makes of them, and what cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from codetune.errors import ExportError, ParityError
from codetune.export import gguf_file, llamacpp, vocabulary
from codetune.export.architectures import Layout
from codetune.export.export import Exported
from codetune.export.vocabulary import split_of
from codetune.models.prompts import Renderer
from tests.unit.export.conftest import Export
from tests.unit.models.tiny_families import write_base

gguf = pytest.importorskip("gguf", reason="GGUF is written with the extra 'gguf'")


def fields(file: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(str(file))
    return {name: field.contents() for name, field in reader.fields.items()}


def test_golden_header(gguf_export: Exported) -> None:
    """Everything llama.cpp reads of nano but the vocabulary itself."""
    made = gguf_export
    assert set(made.files) == {"Modelfile", "README.md", "parity.json", "shop-f16.gguf"}
    found = fields(made.folder / "shop-f16.gguf")
    tokens = found.pop("tokenizer.ggml.tokens")
    kinds = found.pop("tokenizer.ggml.token_type")
    merges = found.pop("tokenizer.ggml.merges")
    assert found.pop("tokenizer.chat_template").startswith("{% for message in messages %}")
    assert {k: v for k, v in found.items() if not k.startswith("GGUF.")} == {
        "codetune.fim_order": "spm-marked",
        "general.architecture": "qwen2",
        "general.file_type": 1,
        "general.name": "shop",
        "general.quantization_version": 2,
        "general.type": "model",
        "qwen2.attention.head_count": 4,
        "qwen2.attention.head_count_kv": 2,
        "qwen2.attention.key_length": 64,
        "qwen2.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "qwen2.attention.value_length": 64,
        "qwen2.block_count": 4,
        "qwen2.context_length": 2048,
        "qwen2.embedding_length": 256,
        "qwen2.feed_forward_length": 768,
        "qwen2.rope.dimension_count": 64,
        "qwen2.rope.freq_base": 10000.0,
        "qwen2.vocab_size": 8192,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.eos_token_id": 8183,
        "tokenizer.ggml.fim_mid_token_id": 8187,
        "tokenizer.ggml.fim_pad_token_id": 8189,
        "tokenizer.ggml.fim_pre_token_id": 8186,
        "tokenizer.ggml.fim_rep_token_id": 8190,
        "tokenizer.ggml.fim_sep_token_id": 8191,
        "tokenizer.ggml.fim_suf_token_id": 8188,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.padding_token_id": 8189,
        "tokenizer.ggml.pre": "qwen2",
    }
    assert (len(tokens), len(kinds), len(merges)) == (8192, 8192, 7927)
    assert [tokens[8183], kinds[8183], kinds[100]] == ["<|endoftext|>", 3, 1]
    assert (made.folder / "Modelfile").read_text().splitlines()[:2] == [
        "FROM ./shop-f16.gguf",
        'TEMPLATE """{{ if .Suffix }}<|fim_suffix|>{{ .Suffix }}<|fim_prefix|>{{ .Prompt }}'
        "<|fim_middle|>{{ else }}{{ range .Messages }}{{ .Role }}:",
    ]


@pytest.mark.parametrize("kind", ["f32", "bf16", "q4_0"])
def test_every_type_is_read_back_within_its_rounding(
    kind: str, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without llama.cpp that is what there is, and it is said."""
    monkeypatch.setattr(llamacpp, "is_installed", lambda: False)
    made = export("shop", format="gguf", quantise=kind)
    file = made.folder / f"shop-{kind}.gguf"
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(str(file)).tensors}
    assert types["blk.0.attn_q.weight"] == kind.upper()
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert types["token_embd.weight"] == ("Q8_0" if kind == "q4_0" else kind.upper())
    written = made.parity["written"][0]
    assert written["divergence"] <= written["tolerance"]
    assert "is not installed" in made.parity["warnings"][-1]
    if kind == "f32":
        assert written["largest_difference"] == made.parity["merged"]["largest_difference"]


@pytest.mark.parametrize(
    "model", ["tiny/llama", "tiny/llama3", "tiny/pieces", "tiny/star", "tiny/whole"]
)
def test_llama_cpp_writes_the_same_text(model: str, export: Export) -> None:
    """Its own engine and tokenizer, from the file alone; Llama's rows lie otherwise there."""
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the extra 'test'")
    made = export(model, format="gguf", quantise="f32")
    spoken = made.parity["written"][1]
    assert spoken["compared"] == "llama.cpp"
    ties = model == "tiny/star"  # llama.cpp reads GELU from a table of 16 bits
    assert spoken["same_texts"] >= spoken["texts"] - ties > 0


@pytest.mark.parametrize(
    ("model", "part", "said"),
    [
        ("tiny/llama", "_rotated", "chooses a token"),
        ("tiny/llama3", "frequencies", "chooses a token"),
        ("tiny/pieces", "_scores", "splits .* into other tokens"),
    ],
)
def test_what_only_llama_cpp_can_see_is_noticed(
    model: str,
    part: str,
    said: str,
    export: Export,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Files that can be read back, and that llama.cpp would understand otherwise."""
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the extra 'test'")
    if part == "_scores":
        monkeypatch.setattr(vocabulary, part, lambda spec, names: [0.0] * len(names))
    else:
        monkeypatch.setattr(Layout, part, lambda *_: None)
    with pytest.raises(ParityError, match=rf"llama\.cpp {said}"):
        export(model, tmp_path / "out", format="gguf", quantise="f32")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_was_changed_is_noticed(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = gguf_file._quantised

    def spoilt(name: str, weight: torch.Tensor, kind: Any) -> Any:
        return stored(name, weight * (1.01 if name == "blk.1.ffn_up.weight" else 1), kind)

    monkeypatch.setattr(gguf_file, "_quantised", spoilt)
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.up_proj\.weight is 2\d\.\d times"):
        export("shop", format="gguf")


def test_a_file_that_llama_cpp_cannot_load_is_named(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the extra 'test'")
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ParityError, match=r"llama\.cpp cannot use the file"):
        llamacpp.ask(tmp_path / "no.gguf", [], [], [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gpt2"}, "architecture 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "scaled by 'yarn'"),
    ],
)
def test_other_mathematics_is_refused(changes: dict[str, Any], said: str, nano: Any) -> None:
    config = json.loads((nano.path / "config.json").read_text()) | changes
    with pytest.raises(ExportError, match=said) as raised:
        Layout(config)
    assert "safetensors" in raised.value.advice


@pytest.mark.parametrize(
    ("family", "rule"), [("qwen", "qwen2"), ("starcoder", "gpt-2"), ("deepseek", "gpt-2")]
)
def test_splitting_rules_have_names(family: str, rule: str, tmp_path: Path) -> None:
    folder = write_base(tmp_path, family)
    spec = json.loads((folder / "tokenizer.json").read_text())
    assert split_of(spec, folder) == rule


def test_a_rule_without_a_name_is_refused(tmp_path: Path) -> None:
    folder = write_base(tmp_path, "codellama")
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["normalizer"] = {"type": "Lowercase"}
    with pytest.raises(ExportError, match="byte fallback"):
        split_of(spec, folder)
    qwen = json.loads((write_base(tmp_path / "q", "qwen") / "tokenizer.json").read_text())
    qwen["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    with pytest.raises(ExportError, match=r"split \\w\+ then bytes"):
        split_of(qwen, folder)


def test_renderer_of_the_registry_goes_along(gguf_export: Exported, nano: Any) -> None:
    """A gap as the file's own template writes it is the prompt that the model was trained on."""
    made = gguf_export
    template = (made.folder / "Modelfile").read_text()
    gap = template.split("{{ if .Suffix }}")[1].split("{{ else }}")[0]
    said = gap.replace("{{ .Suffix }}", "\n").replace("{{ .Prompt }}", "x = ")
    renderer = Renderer.from_folder(nano.path)
    prompt = renderer.fim_prompt("x = ", "\n", order=renderer.order)
    assert said == renderer.decode(prompt, keep_control=True)


def test_context_ends_where_a_sliding_window_begins(nano: Any) -> None:
    """Up to there it changes nothing, and GGUF has no key for it."""
    config = json.loads((nano.path / "config.json").read_text())
    assert Layout(config).window == 2048
    assert Layout(config | {"sliding_window": 64}).window == 2048  # switched off
    assert Layout(config | {"sliding_window": 64, "use_sliding_window": True}).window == 64
    del config["use_sliding_window"]
    assert Layout(config).window == 2048
    assert Layout(config | {"sliding_window": 64, "model_type": "mistral"}).window == 64
