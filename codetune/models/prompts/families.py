"""The fill-in-the-middle markup of each model family, found from the names in a vocabulary.

Sources: the Qwen2.5-Coder technical report (arXiv 2409.12186) and its README, the StarCoder and
StarCoder2 model cards (arXiv 2305.06161, 2402.19173), the reference code of CodeLlama
(`infilling_prompt_tokens`; arXiv 2308.12950), the DeepSeek-Coder README (arXiv 2401.14196).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The token names of one family; `repo` and `file` are the words of its file header.

    A header is `repo` + the repository + `after_repo` + `file` + the path + a line break.
    """

    name: str
    prefix: str
    suffix: str
    middle: str
    end: str  # closes a middle
    end_of_text: str  # closes a file
    repo: str = ""
    after_repo: str = ""
    file: str = ""
    pad: str = ""
    leading_space: bool = False  # the prefix is written after one space (SentencePiece)
    spm: bool = True  # pretrained on suffix-prefix-middle, too


# In order of preference: the first whose three FIM tokens all exist is the base's family.
FAMILIES = (
    Family(
        "qwen",
        prefix="<|fim_prefix|>",
        suffix="<|fim_suffix|>",
        middle="<|fim_middle|>",
        end="<|endoftext|>",
        end_of_text="<|endoftext|>",
        repo="<|repo_name|>",
        after_repo="\n",
        file="<|file_sep|>",
        pad="<|fim_pad|>",
    ),
    Family(
        "starcoder",  # StarCoder2
        prefix="<fim_prefix>",
        suffix="<fim_suffix>",
        middle="<fim_middle>",
        end="<|endoftext|>",
        end_of_text="<|endoftext|>",
        repo="<repo_name>",
        file="<file_sep>",
        pad="<fim_pad>",
    ),
    Family(
        "starcoder",  # StarCoder 1 and its descendants
        prefix="<fim_prefix>",
        suffix="<fim_suffix>",
        middle="<fim_middle>",
        end="<|endoftext|>",
        end_of_text="<|endoftext|>",
        repo="<reponame>",
        file="<filename>",
        pad="<fim_pad>",
    ),
    Family(
        "codellama",
        prefix="▁<PRE>",
        suffix="▁<SUF>",
        middle="▁<MID>",
        end="▁<EOT>",
        end_of_text="</s>",
        leading_space=True,
    ),
    Family(
        "deepseek",
        prefix="<｜fim▁begin｜>",
        suffix="<｜fim▁hole｜>",
        middle="<｜fim▁end｜>",
        end="<｜end▁of▁sentence｜>",
        end_of_text="<｜end▁of▁sentence｜>",
        spm=False,
    ),
)


@dataclass(frozen=True)
class FimTokens:
    """A family's markup as the ids of one tokenizer; `stops` end a generated middle."""

    family: Family
    prefix: int
    suffix: int
    middle: int
    end: int
    repo: int | None
    file: int | None
    stops: frozenset[int]


def find_family(vocabulary: Mapping[str, int]) -> Family | None:
    """The family whose FIM tokens all exist; one whose header tokens exist, too, wins."""
    found = [f for f in FAMILIES if {f.prefix, f.suffix, f.middle} <= vocabulary.keys()]
    with_header = [f for f in found if f.repo in vocabulary and f.file in vocabulary]
    return next(iter(with_header or found), None)


def fim_tokens(vocabulary: Mapping[str, int], family: Family, eos_id: int) -> FimTokens:
    """The ids of `family` in `vocabulary`; a family without its end token ends with `eos_id`."""
    end = vocabulary.get(family.end, eos_id)
    markup = (family.prefix, family.suffix, family.middle, family.end_of_text)
    extra = (family.repo, family.file, family.pad)
    stops = {vocabulary[name] for name in (*markup, *extra) if name in vocabulary}
    header = family.repo in vocabulary and family.file in vocabulary
    return FimTokens(
        family=family,
        prefix=vocabulary[family.prefix],
        suffix=vocabulary[family.suffix],
        middle=vocabulary[family.middle],
        end=end,
        repo=vocabulary[family.repo] if header else None,
        file=vocabulary[family.file] if header else None,
        stops=frozenset(stops | {end, eos_id}),
    )
