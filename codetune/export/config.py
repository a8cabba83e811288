"""The options of an export."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from codetune.options import Options, option

Format = Literal["safetensors", "gguf"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Quantisation = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class ExportOptions(Options):
    """What a model is written as."""

    format: Format = option(
        "safetensors",
        description="safetensors: a folder that transformers and vLLM load. gguf: one file for "
        "llama.cpp and Ollama, with a Modelfile.",
    )
    dtype: Precision = option(
        "auto",
        description="Precision of merged safetensors. auto: as the base is stored. Merging is "
        "always computed in float32; rounding the sum costs some of what tuning changed, and "
        "parity.json says how much.",
    )
    quantise: Quantisation = option(
        "f16", description="Type of the matrices in a GGUF file; vectors stay in float32."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> ExportOptions:
        said = self.model_fields_set
        if self.format != "gguf" and "quantise" in said and self.quantise != "f16":
            raise ValueError("quantise is for format gguf; safetensors have a dtype")
        if self.format == "gguf" and self.dtype != "auto":
            raise ValueError("dtype is for format safetensors; a GGUF file has quantise")
        return self
