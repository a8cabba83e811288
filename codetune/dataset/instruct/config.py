"""Which instructions are made, and of what size."""

from __future__ import annotations

from typing import Literal

from codetune.dataset.teacher.config import TeacherOptions
from codetune.options import Options, option

Kind = Literal["explain", "complete", "document", "test", "commit", "question"]


class InstructionOptions(Options):
    """Instruction data made from the repository's own text."""

    kinds: tuple[Kind, ...] = option(
        ("explain", "complete", "document", "test", "commit", "question"),
        min_length=1,
        description="explain: code or a change → what its authors say about it; complete: "
        "signature or beginning → the rest; document: code → its doc comment; test: function → "
        "its test; commit: message and file → diff; question: heading → its section.",
    )
    most_of_a_kind: int = option(
        3000, ge=1, description="Examples of each kind, at most; a seeded choice of all found."
    )
    most_share: float = option(
        0.5,
        ge=0.5,
        le=1,
        description="The share of the instructions' text that one kind may have, at most (its "
        "first 100 examples stay); commits alone would be three quarters of it. 1: no limit.",
    )
    longest_input: int = option(
        4000, ge=200, description="Characters of what an instruction is about, at most."
    )
    longest_output: int = option(3000, ge=100, description="Characters of an answer, at most.")
    most_repeats: int = option(
        3, ge=1, description="An answer that occurs more often within a kind is boilerplate."
    )
    teacher: TeacherOptions = option(
        default_factory=TeacherOptions,
        description="A model that words the instructions anew; answers stay as they are.",
    )
    heldout: int = option(200, ge=0, description="Held-out instructions, at most.")
