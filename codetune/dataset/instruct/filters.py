"""Which pairs are worth learning from; every other one is dropped with a reason.

too_short too_long     for its kind, or for the options
not_language           an explanation that is a table, a list of links, a drawing, a command
licence                a licence header or copyright notice
todo                   a note to do something later, not documentation
generated              written by a program, or standing for one
of_a_group             a comment over several definitions, not about this one
copy                   an answer that only says the name again, or repeats the input
trivial                a body that holds nothing but `pass`, `todo!()` or one return
redacted               an answer that holds the placeholder of a secret
boilerplate            the same answer for many questions (counted over the repository)
duplicate              the same question and answer again
held_out               it holds text that is held out (see `select`)
over_the_limit         there are more than the options want
"""

from __future__ import annotations

import re

from codetune.dataset.instruct.config import InstructionOptions
from codetune.dataset.instruct.pairs import Pair

_TALK = frozenset({"explain", "question"})  # answers in natural language
_SHORTEST = {"explain": 30, "document": 20, "complete": 60, "test": 60, "commit": 60}
_SHORTEST_SECTION = 100
_FEWEST_WORDS = {"explain": 6, "document": 4, "question": 15}
_LICENCE = re.compile(
    r"(?i)\bcopyright\b|\(c\) ?(?:19|20)\d\d|SPDX-License|licen[sc]ed under|all rights reserved|"
    r"permission is hereby granted|redistribution and use in source"
)
_TODO = re.compile(r"(?i)^\W{0,12}(?:todo|fixme|xxx|hack|tbd|wip|nolint|eslint|noqa|pragma)\b")
_GENERATED = re.compile(
    r"(?i)\bauto-?\s?generated\b|^\W*generated (?:by|from)\b|\bdo not edit\b|\{@inheritDoc\}|"
    r"^\W*(?:see (?:above|below|base class|super)|non-javadoc)\W*$"
)
_TRIVIAL = re.compile(
    r"^\s*(?:pass|\.\.\.|todo!\(\)|unimplemented!\(\)|unreachable!\(\)|"
    r"raise NotImplementedError(?:\([^)]*\))?|return(?: \w+)?;?|super\(\)\.\w+\(\))?\s*;?\s*\}?\s*$"
)
_REDACTED = re.compile(r"\bREDACTED_[A-Z]")
_OF_A_GROUP = re.compile(
    r"(?i)^\W{0,8}(?:these|the following|below are|helper functions|helpers\b|utilit(?:y functions|"
    r"ies)\b|common\b[\w ]{0,20}s\W*$)|^\W*(?:-{3,}|={3,}|\*{4,})"
)
_TAG = re.compile(r"</?[a-zA-Z][^>]*>")
_LEAST_WITHOUT_TAGS = 0.7  # a share of the characters
_WORD = re.compile(r"[^\W\d_]{2,}")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\([^)]*\)|https?://\S+|<[^>]+>")
_STOP = re.compile(
    r"(?:"
    r"a|an|the|of|to|for|in|on|by|with|and|or|is|are|be|this|that|it|its|"
    r"as|at|from|get|gets|set|sets|returns|return|new|given|which|if|whether|"
    r"class|function|method|struct|type|interface|test|tests|object|value|instance|"
    r"creates|create|make|makes|does|do|has|have|was|returned|implements|"
    r"implementation|default|the"
    r")$"
)


def reason_against(pair: Pair, options: InstructionOptions) -> str | None:
    """Why the pair is not worth learning from, or None if it is."""
    output = pair.output.strip()
    shortest = _SHORTEST.get(pair.kind, _SHORTEST_SECTION)
    if len(output) < shortest:
        return "too_short"
    if len(output) > options.longest_output or len(pair.input) > options.longest_input:
        return "too_long"
    if _REDACTED.search(output):
        return "redacted"
    if pair.kind in ("explain", "document", "question"):
        return _against_words(pair, output)
    if pair.kind == "complete" and _TRIVIAL.match(output):
        return "trivial"
    if output in pair.input:
        return "copy"
    return None


def _against_words(pair: Pair, output: str) -> str | None:
    """Why a text in natural language says nothing, or None."""
    if _TODO.match(output):
        return "todo"
    if _LICENCE.search(output[:600]):
        return "licence"
    if _GENERATED.search(output[:400]):
        return "generated"
    if _OF_A_GROUP.match(output):
        return "of_a_group"
    if len(_TAG.sub("", output)) < _LEAST_WITHOUT_TAGS * len(output):
        return "not_language"
    prose = _LINK.sub(" ", _FENCE.sub(" ", output))
    words = _WORD.findall(prose)
    if len(words) < _FEWEST_WORDS[pair.kind]:
        return "too_short" if len(output) < 200 else "not_language"
    if not _is_language(prose, words, 0.55 if pair.kind in _TALK else 0.45):
        return "not_language"
    if pair.kind != "question" and _is_copy(pair, words):
        return "copy"
    return None


def _is_language(prose: str, words: list[str], least: float) -> bool:
    """Whether letters prevail, and words repeat little and are as long as words are."""
    dense = [letter for letter in prose if not letter.isspace()]
    letters = sum(letter.isalpha() for letter in dense)
    if letters < least * len(dense):
        return False
    lower = [word.lower() for word in words]
    if len(lower) >= 20 and len(set(lower)) < 0.25 * len(lower):
        return False
    mean = sum(map(len, lower)) / len(lower)
    # Scripts without blanks between words (Chinese, Japanese) have long runs of letters.
    return 2.2 <= mean <= 14 or not prose.isascii()


def _is_copy(pair: Pair, words: list[str]) -> bool:
    """Whether the answer says next to nothing that the names did not say."""
    known = {part.lower() for part in _PARTS.findall(pair.names)}
    known |= {part[:-1] for part in known if part.endswith("s")}
    told = {
        word.lower()
        for word in words
        if not _STOP.match(word.lower()) and not _known(word.lower(), known)
    }
    return len(told) < 2


def _known(word: str, known: set[str]) -> bool:
    return word in known or (word.endswith("s") and word[:-1] in known)
