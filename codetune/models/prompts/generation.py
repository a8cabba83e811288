"""`{% generation %} … {% endgeneration %}`: the marks that some templates put around answers.

transformers invented the tag (`apply_chat_template(return_assistant_tokens_mask=True)`); a
template that has it cannot even be read without it.
"""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

START, END = "answer_start_mark", "answer_end_mark"  # variables that hold the marks' letters


class Generation(Extension):
    """Writes the values of the variables `START` and `END` around the block's text."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks: list[nodes.Expr] = [nodes.Name(START, "load"), nodes.Name(END, "load")]
        return nodes.CallBlock(self.call_method("_mark", marks), [], [], body).set_lineno(line)

    def _mark(self, start: str, end: str, caller: Callable[[], str]) -> str:
        return start + caller() + end
