"""Raw prompts as editors send them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.models.prompts import ContextFile, fit_context, transcode
from tests.unit.models.tiny_families import WITH_FIM, renderer

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
    assert transcode(prompt) == (P, S, None, None, ())


OTHER = ContextFile("x = 1\n", "other.py")


@pytest.mark.parametrize(
    ("header", "context"),
    [
        ("<|repo_name|>owner/name\n<|file_sep|>src/a.py\n", ()),
        ("<|repo_name|>owner/name\n<|file_sep|>other.py\nx = 1\n<|file_sep|>src/a.py\n", (OTHER,)),
        ("<repo_name>owner/name<file_sep>src/a.py\n", ()),
        ("<repo_name>owner/name<file_sep>other.py\nx = 1\n<file_sep>src/a.py\n", (OTHER,)),
        ("<reponame>owner/name<filename>src/a.py\n", ()),
    ],
)
def test_headers_name_the_file_and_show_others(
    header: str, context: tuple[ContextFile, ...]
) -> None:
    before = transcode(f"{header}<|fim_prefix|>{P}<|fim_suffix|>{S}<|fim_middle|>")
    inside = transcode(f"<fim_prefix>{header}{P}<fim_suffix>{S}<fim_middle>")
    assert before == inside == (P, S, "owner/name", "src/a.py", context)


def test_a_file_header_alone() -> None:
    prompt = f"<|file_sep|>a.py\n<|fim_prefix|>{P}<|fim_suffix|>{S}<|fim_middle|>"
    assert transcode(prompt) == (P, S, None, "a.py", ())


def test_snippets_without_a_path_are_context_too() -> None:
    """Continue's StarCoder2 template, and an editor that puts text before the markup."""
    fim = f"<fim_prefix>{P}<fim_suffix>{S}<fim_middle>"
    found = transcode(f"<file_sep>def one():\n    1\n<file_sep>two = 2\n<file_sep>{fim}")
    assert found == (
        P,
        S,
        None,
        None,
        (ContextFile("two = 2\n"), ContextFile("def one():\n    1\n")),
    )
    assert transcode(f"Context:\n\nx = 1\n{fim}") == (
        P,
        S,
        None,
        None,
        (ContextFile("Context:\n\nx = 1\n"),),
    )


def test_code_about_markup_in_the_prefix() -> None:
    """The outermost marks count where the prompt begins and ends with them."""
    prefix, suffix = "MARK = '<fim_prefix>'\nEND = '<fim_middle>'\n", "# <fim_middle>\n"
    found = transcode(f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>")
    assert found == (prefix, suffix, None, None, ())


@pytest.mark.parametrize(
    "prompt",
    [
        "def f(x):\n",
        "MARKS = ['<|fim_prefix|>', '<|fim_suffix|>']",
        f"x<|fim_prefix|>'<|fim_prefix|>'{P}<|fim_suffix|>{S}<|fim_middle|>",
        f"<|fim_prefix|>'<|fim_suffix|>'{P}<|fim_suffix|>{S}<|fim_middle|>",
        f"<|fim_suffix|>{S}<|fim_prefix|>{P}<|fim_middle|>",
        f"<|fim_prefix|>{P}<|fim_suffix|>{S}<|fim_middle|>and more",
    ],
)
def test_what_is_not_a_fim_prompt(prompt: str) -> None:
    assert transcode(prompt) is None


MARKS = ("<", "｜", "▁", "[SUFFIX]", "[PREFIX]")
CODE = st.text(alphabet=st.characters(codec="utf-8"), max_size=200).filter(
    lambda text: not any(mark in text for mark in MARKS)
)
NAMES = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}\.(py|rs)", fullmatch=True)


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(WITH_FIM),
    prefix=CODE,
    suffix=CODE,
    repo=NAMES,
    path=NAMES,
    order=st.sampled_from(["psm", "spm"]),
    with_header=st.booleans(),
)
def test_what_a_family_renders_is_recognised(
    family: str, prefix: str, suffix: str, repo: str, path: str, order: str, with_header: bool
) -> None:
    """Render by family → the text an editor would have sent → the same prefix and suffix."""
    base = renderer(family)
    assert base.fim is not None
    if family == "codellama":  # its tokenizer knows few letters beyond ASCII
        prefix, suffix = (text.encode("ascii", "ignore").decode() for text in (prefix, suffix))
        order = "psm"
    if family == "deepseek":
        order = "psm"
    tokens = base.fim.family
    header = ""
    if with_header and tokens.repo:
        header = f"{tokens.repo}{repo}{tokens.after_repo}{tokens.file}{path}\n"
    lead = " " if tokens.leading_space else ""
    tail = " " if tokens.leading_space else ""
    if order == "psm":
        text = f"{header}{tokens.prefix}{lead}{prefix}{tail}{tokens.suffix}{suffix}{tail}{tokens.middle}"
    else:
        text = f"{header}{tokens.prefix}{tokens.suffix}{suffix}{tokens.middle}{prefix}"
    found = transcode(text)
    assert found is not None
    assert (found.prefix, found.suffix) == (prefix, suffix)
    assert (found.repo, found.path) == ((repo, path) if header else (None, None))
    # What was recognised renders to the base's own tokens, and to nothing else that controls it.
    ids = base.fim_prompt(found.prefix, found.suffix, repo=found.repo, path=found.path)
    own = base.start(found.repo, found.path)
    control = [i for i in ids[len(own) :] if i in set(base.markup.values())]
    assert control == [base.fim.prefix, base.fim.suffix, base.fim.middle]


@pytest.mark.parametrize("family", WITH_FIM)
def test_other_files_stand_before_the_one_at_the_cursor(family: str) -> None:
    base = renderer(family)
    assert base.fim is not None
    files = [ContextFile("near = 1\n", "near.py"), ContextFile("far = '<|file_sep|>'\n", "far.py")]
    context = fit_context(base, files, 200)
    ids = base.fim_prompt("a", "b", repo="o/n", path="here.py", context=context)
    text = base.decode(ids)
    assert text.index("far = '") < text.index("near = 1")
    assert ids[: len(base.start("o/n", "here.py", context))][-1] != base.fim.prefix
    if base.fim.file is not None:
        assert ids.count(base.fim.file) == 3, "two files and the one at the cursor; text is text"
        assert text.index("near = 1") < text.index("here.py")


def test_context_that_does_not_fit_is_cut_and_then_left_out() -> None:
    base = renderer("qwen")
    near, far = ContextFile("n = 1\n" * 5, "near.py"), ContextFile("f = 2\n" * 500, "far.py")
    room = 120
    ids = fit_context(base, [near, far], room)
    assert len(ids) == room
    assert base.decode(ids).endswith("near.py\n" + near.text)
    assert fit_context(base, [near, far], 10) == []
    assert fit_context(base, [ContextFile(" \n")], room) == []
