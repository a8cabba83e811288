"""Spans of source text that mean something to a programmer, found with tree-sitter.

Grammars are loaded when a language is first met. A file with syntax errors is still used: only
nodes that hold an error themselves are left out (72 % of C headers have one somewhere).
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_GRAMMARS: dict[str, tuple[str, str]] = {
    "python": ("tree_sitter_python", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "rust": ("tree_sitter_rust", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "csharp": ("tree_sitter_c_sharp", "language"),
    "ruby": ("tree_sitter_ruby", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "bash": ("tree_sitter_bash", "language"),
}

HAS_GRAMMAR: frozenset[str] = frozenset(_GRAMMARS)

# Grammars can be slow on megabytes of one statement (tables, bundles): those are cut by lines.
_LARGEST_PARSED = 1_000_000  # bytes
_LARGEST = {"bash": 50_000, "ruby": 200_000}  # their grammars take the square of some texts
_LONGEST_CHAIN = 400  # of one of "<", "=", ":" and "?" between two of ";", "{" and "}"
_BRACED = frozenset(_GRAMMARS) - {"python", "ruby", "bash"}
_DEEPEST = 500  # brackets inside one another
_STATEMENT_END = re.compile(rb"[;{}]")
_STEPS = np.zeros(256, np.int8)  # by brackets, into the depth and out of it
_STEPS[list(b"([{")], _STEPS[list(b")]}")] = 1, -1

_ARGUMENTS = frozenset({"argument_list", "arguments"})
_PARAMETERS = frozenset(
    {"parameters", "formal_parameters", "parameter_list", "method_parameters", "type_parameters"}
)
_BLOCKS = frozenset(
    {
        "block",
        "statement_block",
        "compound_statement",
        "declaration_list",
        "field_declaration_list",
        "class_body",
        "interface_body",
        "enum_body",
        "enum_variant_list",
        "enum_member_declaration_list",
        "object_type",
        "body_statement",
        "do_block",
        "do_group",
        "switch_body",
        "match_block",
        "constructor_body",
        "block_body",
    }
)
_EXPRESSIONS = frozenset(
    {
        "call",
        "binary_operator",
        "boolean_operator",
        "comparison_operator",
        "not_operator",
        "list",
        "dictionary",
        "tuple",
        "set",
        "list_comprehension",
        "dictionary_comprehension",
        "generator_expression",
        "lambda",
        "object",
        "array",
        "arrow_function",
        "composite_literal",
        "func_literal",
        "initializer_list",
        "hash",
        "binary",
        "conditional",
        "ternary",
        "macro_invocation",
        "object_creation_expression",
        "method_invocation",
        "template_string",
        "jsx_element",
        "jsx_self_closing_element",
    }
)
_DEFINITIONS = frozenset(
    {
        "method",
        "singleton_method",
        "class",
        "module",
        "template_declaration",
        "public_field_definition",
    }
)
_LOCAL_DECLARATIONS = frozenset(
    {
        "let_declaration",
        "lexical_declaration",
        "variable_declaration",
        "short_var_declaration",
        "local_variable_declaration",
        "var_declaration",
        "const_declaration",
        "declaration",
        "assignment",
        "augmented_assignment",
        "import_declaration",
        "command",
        "pipeline",
    }
)
# Nodes that are opened when a top-level span is longer than wanted.
_CONTAINERS = frozenset(
    {
        "class_definition",
        "decorated_definition",
        "class_declaration",
        "abstract_class_declaration",
        "interface_declaration",
        "export_statement",
        "internal_module",
        "module",
        "class",
        "impl_item",
        "trait_item",
        "mod_item",
        "namespace_definition",
        "namespace_declaration",
        "class_specifier",
        "struct_specifier",
        "linkage_specification",
        "template_declaration",
        "preproc_if",
        "preproc_ifdef",
        "program",
        *_BLOCKS,
    }
)
_ATTRIBUTES = frozenset({"attribute_item", "inner_attribute_item"})  # Rust's #[…]
_BLANKS = b" \t\n\r\f\v"
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


class Span(NamedTuple):
    """A region of a text in characters, end exclusive.

    Kinds: body, block, condition, arguments, parameters, expression, statement, definition; and,
    from `top_level_spans`, comment for one that belongs to no definition.
    """

    kind: str
    start: int
    end: int


def fim_spans(
    text: str,
    language: str,
    *,
    minimum: int = 50,
    maximum: int = 1000,
    within: Sequence[tuple[int, int]] | None = None,
) -> list[Span]:
    """The regions a programmer may want filled in: `minimum` to `maximum` bytes of UTF-8 long.

    Brackets are left outside, and blanks at both ends. No two spans are equal, many are nested.
    With `within`, only those whose node starts in one of these ranges of characters, which do not
    overlap. Returns [] for a language without a grammar. Sorted by start, outer before inner.
    """
    root, data = _parse(text, language)
    if root is None:
        return []
    ranges = [(0, len(data))] if within is None else _in_bytes(data, text, within)
    found: dict[tuple[int, int], str] = {}
    for first, last in ranges:
        for node, field in _nodes(root, first, last, minimum):
            kind = _kind(node, field)
            if kind is None or node.start_byte < first or node.has_error:
                continue
            start, end = _interior(node, data)
            if minimum <= end - start <= maximum:
                found.setdefault((start, end), kind)
    ordered = sorted(found.items(), key=lambda item: (item[0][0], -item[0][1]))
    return _in_characters(data, text, (Span(kind, *at) for at, kind in ordered))


def _nodes(root: Any, first: int, last: int, minimum: int) -> Iterator[tuple[Any, str | None]]:
    """The nodes of at least `minimum` bytes that overlap first..last, with their fields' names.

    A node shorter than the minimum holds no span: most of the tree is never visited.
    """
    cursor = root.walk()
    more = cursor.goto_first_child_for_byte(first) is not None
    while more:
        node = cursor.node
        start = node.start_byte
        inside = start < last and node.end_byte - start >= minimum
        if inside:
            yield node, cursor.field_name
        if inside and cursor.goto_first_child_for_byte(first) is not None:
            continue
        more = start < last and cursor.goto_next_sibling()
        while not more and cursor.goto_parent():
            more = cursor.goto_next_sibling()


def top_level_spans(text: str, language: str, *, largest: int = 4000) -> list[Span]:
    """Definitions and statements in file order, without gaps in meaning, for cutting a long file.

    A comment right above a definition belongs to it. Classes, namespaces and the like that are
    longer than `largest` bytes give their members instead. Returns [] without a grammar; spans
    never overlap, and what lies between two of them is blank or the frame of an opened container.
    """
    root, data = _parse(text, language)
    if root is None:
        return []
    spans: list[Span] = []
    for node in _members(root, largest):
        start, end = _trimmed(node.start_byte, node.end_byte, data)
        leads = "comment" in node.type or node.type in _ATTRIBUTES
        kind = "comment" if leads else _kind(node, None) or "statement"
        if spans and spans[-1].kind == "comment" and _adjoins(data[spans[-1].end : start]):
            start = spans.pop().start
        if end > start:
            spans.append(Span(kind, start, end))
    return _in_characters(data, text, spans)


def _adjoins(between: bytes) -> bool:
    """Whether nothing but one line end lies between a comment and what follows it."""
    return not between.strip() and between.count(b"\n") <= 1


def _members(root: Any, largest: int) -> Iterator[Any]:
    """The named children of `root`, and in place of a large container its own members."""
    stack = list(reversed(root.named_children))
    while stack:
        node = stack.pop()
        large = node.end_byte - node.start_byte > largest
        if large and node.type in _CONTAINERS | {"ERROR"}:
            # Names, bases and brackets are the frame; members are what is left.
            stack.extend(
                child
                for child in reversed(node.named_children)
                if "comment" in child.type
                or _kind(child, None) in ("definition", "statement", "block", "expression")
            )
        else:
            yield node


def _kind(node: Any, field: str | None) -> str | None:
    """What a node is to a programmer; None for one that is no use as a span."""
    return _kind_of(node.type, field) if node.is_named else None


@functools.cache
def _kind_of(name: str, field: str | None) -> str | None:
    if name in _ATTRIBUTES:
        return None
    if field == "condition":
        return "condition"
    if field == "body" and name != "literal_value":
        return "body"
    if name in _ARGUMENTS:
        return "arguments"
    if name in _PARAMETERS:
        return "parameters"
    if name in _BLOCKS:
        return "block"
    if name in _EXPRESSIONS or name.endswith("_expression"):
        return "expression"
    if name in _LOCAL_DECLARATIONS or name.endswith("_statement"):
        return "statement"
    if name in _DEFINITIONS or name.endswith(
        ("_definition", "_declaration", "_item", "_specifier")
    ):
        return "definition"
    return "expression" if field in ("value", "right") else None


def _interior(node: Any, data: bytes) -> tuple[int, int]:
    """Byte offsets of a node without its brackets and without blanks at the ends."""
    start, end = node.start_byte, node.end_byte
    count = node.child_count
    if count >= 2 and data[start] in b"([{" and data[end - 1] in b")]}":
        first, last = node.child(0), node.child(count - 1)
        if first.type in _OPENING and last.type in _CLOSING:
            start, end = first.end_byte, last.start_byte
    return _trimmed(start, end, data)


def _trimmed(start: int, end: int, data: bytes) -> tuple[int, int]:
    while start < end and data[start] in _BLANKS:
        start += 1
    while end > start and data[end - 1] in _BLANKS:
        end -= 1
    return start, end


@functools.lru_cache(maxsize=1)  # building a dataset asks twice for a file: spans and borders
def _parse(text: str, language: str) -> tuple[Any, bytes]:
    """The root node and the bytes its offsets count, or (None, …) where there is no grammar."""
    data = text.encode("utf-8", "replace")
    if language not in _GRAMMARS or _is_hostile(data, language):
        return None, data
    from tree_sitter import Parser

    tree = Parser(_grammar(language)).parse(data)
    return tree.root_node, data


def parse_tree(text: str, language: str) -> tuple[Any, bytes]:
    """The tree-sitter root node of a text and the bytes that its offsets count.

    The root is None for a language without a grammar and for a text that no parser should read.
    """
    return _parse(text, language)


def character_offsets(data: bytes, text: str, offsets: Iterable[int]) -> Mapping[int, int]:
    """Where byte offsets of `data`, the UTF-8 of `text`, stand in the text."""
    at: dict[int, int] = {}
    byte = character = 0
    for offset in sorted(set(offsets)):
        character += len(data[byte:offset].decode("utf-8", "replace"))
        byte = offset
        at[offset] = character
    return at


def _is_hostile(data: bytes, language: str) -> bool:
    """Whether a text chains or nests as no program does: parsers then cost the square of it.

    10 kB of `a=>a=>…` take tree-sitter's C grammar 3.4 GB, 20 kB of `a<a<…` its Java grammar
    0.9 GB. Large tables of plain assignments are refused, too; they hold no spans worth having.
    """
    if len(data) > _LARGEST.get(language, _LARGEST_PARSED):
        return True
    marks = [mark for mark in (b"<", b"=", b":", b"?") if data.count(mark) > _LONGEST_CHAIN]
    if marks and language in _BRACED:
        for piece in _STATEMENT_END.split(data):
            if any(piece.count(mark) > _LONGEST_CHAIN for mark in marks):
                return True
    steps = _STEPS[np.frombuffer(data, np.uint8)]
    depths = np.cumsum(steps[steps != 0], dtype=np.int64)
    depths -= np.minimum(np.minimum.accumulate(depths), 0)  # one that closes nothing is skipped
    return bool((depths > _DEEPEST).any())


@functools.cache
def _grammar(language: str) -> Any:
    from tree_sitter import Language

    module, function = _GRAMMARS[language]
    return Language(getattr(importlib.import_module(module), function)())


def _in_bytes(
    data: bytes, text: str, ranges: Sequence[tuple[int, int]]
) -> Sequence[tuple[int, int]]:
    """Turn character offsets into byte offsets."""
    if len(data) == len(text):
        return ranges
    places = np.minimum(np.array(ranges, np.int64).reshape(-1, 2), len(text))
    firsts = np.flatnonzero(np.frombuffer(data, np.uint8) & 0xC0 != 0x80)  # bytes of characters
    return [(a, b) for a, b in np.append(firsts, len(data))[places].tolist()]


def _in_characters(data: bytes, text: str, spans: Iterable[Span]) -> list[Span]:
    """Turn byte offsets into character offsets; the same numbers where the text is ASCII."""
    spans = list(spans)
    if len(data) == len(text):
        return spans
    at = character_offsets(data, text, (o for span in spans for o in (span.start, span.end)))
    return [Span(span.kind, at[span.start], at[span.end]) for span in spans]
