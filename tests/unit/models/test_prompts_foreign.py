"""Raw prompts as editors send them."""

from __future__ import annotations

import pytest

from codetune.models.prompts import transcode

P, S = "def f(x):\n    return ", "\n\nprint(f(1))\n"
PROMPTS = [
    f"<|fim_prefix|>{P}<|fim_suffix|>{S}<|fim_middle|>",
    f"<|fim_prefix|><|fim_suffix|>{S}<|fim_middle|>{P}",
    f"<fim_prefix>{P}<fim_suffix>{S}<fim_middle>",
    f"<fim-prefix>{P}<fim-suffix>{S}<fim-middle>",
    f"<｜fim▁begin｜>{P}<｜fim▁hole｜>{S}<｜fim▁end｜>",
    f"<|fim▁begin|>{P}<|fim▁hole|>{S}<|fim▁end|>",
    f"<PRE> {P} <SUF>{S} <MID>",
    f"▁<PRE> {P} ▁<SUF>{S} ▁<MID>",
    f"[SUFFIX]{S}[PREFIX]{P}",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_dialect(prompt: str) -> None:
    assert transcode(prompt) == (P, S, None, None)


@pytest.mark.parametrize(
    "header",
    [
        "<|repo_name|>owner/name\n<|file_sep|>src/a.py\n",
        "<|repo_name|>owner/name\n<|file_sep|>other.py\nx = 1\n<|file_sep|>src/a.py\n",
        "<repo_name>owner/name<file_sep>src/a.py\n",
        "<reponame>owner/name<filename>src/a.py\n",
    ],
)
def test_headers_name_the_file(header: str) -> None:
    before = transcode(f"{header}<|fim_prefix|>{P}<|fim_suffix|>{S}<|fim_middle|>")
    inside = transcode(f"<fim_prefix>{header}{P}<fim_suffix>{S}<fim_middle>")
    assert before == inside == (P, S, "owner/name", "src/a.py")


def test_a_file_header_alone() -> None:
    prompt = f"<|file_sep|>a.py\n<|fim_prefix|>{P}<|fim_suffix|>{S}<|fim_middle|>"
    assert transcode(prompt) == (P, S, None, "a.py")


@pytest.mark.parametrize(
    "prompt",
    [
        "def f(x):\n",
        "MARKS = ['<|fim_prefix|>', '<|fim_suffix|>']",
        f"<|fim_prefix|>'<|fim_prefix|>'{P}<|fim_suffix|>{S}<|fim_middle|>",
        f"<|fim_suffix|>{S}<|fim_prefix|>{P}<|fim_middle|>",
        f"<|fim_prefix|>{P}<|fim_suffix|>{S}<|fim_middle|>and more",
    ],
)
def test_what_is_not_a_fim_prompt(prompt: str) -> None:
    assert transcode(prompt) is None
