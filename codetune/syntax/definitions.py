"""Definitions with their documentation: functions, methods and types, found with tree-sitter.

A definition's doc is the docstring (Python) or the comment right above it, in the form that the
language's own tools read. Functions inside functions are not looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from codetune.syntax.parse import character_offsets, parse_tree

Range = tuple[int, int]

_KINDS = {
    "function_definition": "function",
    "function_declaration": "function",
    "generator_function_declaration": "function",
    "function_item": "function",
    "class_definition": "class",
    "class_declaration": "class",
    "abstract_class_declaration": "class",
    "class_specifier": "class",
    "method_definition": "method",
    "method_declaration": "method",
    "constructor_declaration": "constructor",
    "interface_declaration": "interface",
    "enum_declaration": "enum",
    "enum_item": "enum",
    "enum_specifier": "enum",
    "record_declaration": "record",
    "struct_item": "struct",
    "struct_specifier": "struct",
    "trait_item": "trait",
    "macro_definition": "macro",
    "type_alias_declaration": "type",
    "type_declaration": "type",
    "type_definition": "type",
    "lexical_declaration": "function",  # const f = () => …
    "declaration": "function",  # C: a prototype
    "field_declaration": "method",  # C++: a prototype
}
_NEEDS_BODY = {"class_specifier", "struct_specifier", "enum_specifier"}
_WRAPPERS = {"decorated_definition", "export_statement", "template_declaration"}
# Nodes whose children may be definitions; classes and the like are opened by their body.
_OPENED = {
    "module",
    "program",
    "source_file",
    "translation_unit",
    "compilation_unit",
    "block",
    "class_body",
    "interface_body",
    "enum_body",
    "enum_body_declarations",
    "declaration_list",
    "field_declaration_list",
    "mod_item",
    "impl_item",
    "namespace_definition",
    "internal_module",
    "statement_block",
    "linkage_specification",
    "preproc_if",
    "preproc_ifdef",
    "preproc_else",
    "expression_statement",
}
_TYPES = {"class", "interface", "enum", "record", "struct", "trait", "type"}
_BLOCK_DOC = {"javascript", "typescript", "tsx", "java"}  # only /** … */ counts in these
_COMMENTS = {"comment", "line_comment", "block_comment"}


@dataclass(frozen=True)
class Definition:
    """A definition; all ranges are in characters of the text.

    `whole` starts at decorators, attributes or `export` and holds no comment above. `doc` is the
    raw documentation with its marks. `body` starts behind the opening brace (Python: at the first
    statement behind the docstring) and ends where the definition ends; None if there is none.
    """

    kind: str  # function, method, constructor, class, struct, enum, interface, trait, type, macro
    name: str
    qualified: str  # with the names of the types and modules around it, joined by dots
    whole: Range
    doc: Range | None
    body: Range | None
    is_test: bool = False  # Rust's #[test], Java's @Test
    calls: tuple[str, ...] = ()  # names called inside, in order, repeated (only when asked for)


def definitions(text: str, language: str, *, calls: bool = False) -> list[Definition]:
    """The definitions of a file in order; [] for a language that is not known well enough."""
    if language not in _LANGUAGES:
        return []
    root, data = parse_tree(text, language)
    if root is None:
        return []
    found = list(_Finder(data, language, calls).inside(root, ""))
    at = character_offsets(
        data, text, [o for d in found for span in (d.whole, d.doc, d.body) if span for o in span]
    )

    def characters(span: Range | None) -> Range | None:
        return None if span is None else (at[span[0]], at[span[1]])

    return [
        replace(
            one,
            whole=(at[one.whole[0]], at[one.whole[1]]),
            doc=characters(one.doc),
            body=characters(one.body),
        )
        for one in found
    ]


_LANGUAGES = frozenset(
    {"python", "javascript", "typescript", "tsx", "rust", "go", "java", "c", "cpp"}
)


class _Finder:
    """Walks one tree; ranges are in bytes."""

    def __init__(self, data: bytes, language: str, calls: bool) -> None:
        self._data, self._language, self._calls = data, language, calls

    def inside(self, parent: Any, around: str, member: bool = False) -> Iterator[Definition]:
        """The definitions among the children of `parent`, whose qualified name is `around`.

        They are a type's members if `member` says so.
        """
        children = parent.children
        for index, outer in enumerate(children):
            node = _unwrapped(outer)
            if node.type in _OPENED and node.type not in _KINDS:
                opened = node.child_by_field_name("body") or node
                owner = _joined(around, self._owner(node))
                yield from self.inside(opened, owner, member or node.type == "impl_item")
                continue
            if node.type not in _KINDS or node.has_error:
                continue
            name = self._name(node)
            if not name:
                continue
            made = self._definition(node, outer, children, index, name, around, member)
            if made is None:
                continue
            yield made
            body = node.child_by_field_name("body")
            if made.kind in _TYPES and body is not None:
                yield from self.inside(body, made.qualified, True)

    def _definition(
        self,
        node: Any,
        outer: Any,
        children: Sequence[Any],
        index: int,
        name: str,
        around: str,
        member: bool,
    ) -> Definition | None:
        kind = _KINDS[node.type]
        value = _function_value(node) if node.type == "lexical_declaration" else None
        if node.type == "lexical_declaration" and value is None:
            return None
        if node.type in ("declaration", "field_declaration") and not _is_prototype(node):
            return None
        block = (value or node).child_by_field_name("body")
        if node.type in _NEEDS_BODY and block is None:
            return None
        start, end = outer.start_byte, outer.end_byte
        doc, first, attributes = self._above(children, index)
        if doc and node.type == "declaration" and self._leads_a_group(children, index):
            doc = None
        start = min(start, first)
        body: Range | None = None
        if block is not None and self._data[block.start_byte : block.start_byte + 1] == b"{":
            body = (block.start_byte + 1, end)
        elif block is not None and self._language == "python":
            doc, body = self._python_doc(node, block)
        receiver = node.child_by_field_name("receiver")
        if receiver is not None:
            typed = self._text(receiver).partition("[")[0]  # without Go's type parameters
            around = _joined(around, _last_word(typed))
        is_member = member or (self._language == "cpp" and "." in name)
        kind = "method" if kind == "function" and is_member else kind
        return Definition(
            kind,
            name.rpartition(".")[2],
            _joined(around, name),
            (start, end),
            doc,
            body,
            is_test=b"test]" in attributes or b"test(" in attributes or self._annotated(node),
            calls=tuple(self._called(node)) if self._calls and kind not in _TYPES else (),
        )  # fmt: skip

    def _above(self, children: Sequence[Any], index: int) -> tuple[Range | None, int, bytes]:
        """The doc comment above a child, where its attributes start, and their text."""
        first = children[index].start_byte
        attributes = b""
        doc: Range | None = None
        at = first
        style = b""
        for node in reversed(children[:index]):
            between = self._data[node.end_byte : at]
            if node.type == "attribute_item" and not between.strip():
                attributes += self._data[node.start_byte : node.end_byte]
                at = node.start_byte
                first = min(first, at) if doc is None else first
                continue
            marks = self._marks(node)
            if not marks or between.strip() or between.count(b"\n") > 1:
                break
            if style and (marks != style or marks.startswith(b"/*")):
                break
            style, at = marks, node.start_byte
            doc = (at, doc[1] if doc else len(self._data[: node.end_byte].rstrip()))
        return doc, first, attributes

    def _leads_a_group(self, children: Sequence[Any], index: int) -> bool:
        """Whether the next line holds another prototype: the comment above is about both."""
        here, after = children[index], children[index + 1 : index + 2]
        if not after or after[0].type != "declaration":
            return False
        return self._data[here.end_byte : after[0].start_byte].count(b"\n") <= 1

    def _marks(self, node: Any) -> bytes:
        """How a doc comment opens; b"" for anything else."""
        if node.type not in _COMMENTS:
            return b""
        line = self._data.rfind(b"\n", 0, node.start_byte) + 1
        if self._data[line : node.start_byte].strip():
            return b""  # it belongs to what stands before it
        head = self._data[node.start_byte : node.start_byte + 4]
        if self._language == "rust":
            is_doc = head.startswith(b"///") and head != b"////"
            return b"///" if is_doc else b"/**" if head.startswith(b"/**") else b""
        if head.startswith(b"/**"):
            return b"/**"
        if self._language in _BLOCK_DOC:
            return b""
        return head[:2] if head[:2] in (b"//", b"/*") else b""

    def _python_doc(self, node: Any, block: Any) -> tuple[Range | None, Range | None]:
        """The docstring with its quotes, and the rest of the block."""
        doc: Range | None = None
        statements = block.named_children
        if statements and statements[0].type == "expression_statement":
            inner = statements[0].named_children
            if len(inner) == 1 and inner[0].type == "string":
                doc = (inner[0].start_byte, inner[0].end_byte)
        colons = [c.end_byte for c in node.children if c.type == ":"]
        begin = doc[1] if doc else colons[-1] if colons else block.start_byte
        rest = self._data[begin : block.end_byte]
        line, lines, _ = rest.partition(b"\n")
        if lines and (doc or not line.strip() or line.lstrip().startswith(b"#")):
            begin += len(line) + 1  # else it stands on the line of its signature
        return doc, (begin, block.end_byte) if begin < block.end_byte else None

    def _annotated(self, node: Any) -> bool:
        """Whether a method of Java carries JUnit's or TestNG's annotation."""
        modifiers = node.children[0] if node.children else None
        if self._language != "java" or modifiers is None or modifiers.type != "modifiers":
            return False
        marks = [self._text(child).lstrip("@") for child in modifiers.named_children]
        return any(mark.partition("(")[0] in ("Test", "ParameterizedTest") for mark in marks)

    def _name(self, node: Any) -> str:
        if node.type == "lexical_declaration":
            declared = [c for c in node.named_children if c.type == "variable_declarator"]
            named = declared[0].child_by_field_name("name") if len(declared) == 1 else None
        elif node.type == "type_declaration":  # Go: type X struct {…}, or a list of them
            specs = [c for c in node.named_children if c.type in ("type_spec", "type_alias")]
            named = specs[0].child_by_field_name("name") if len(specs) == 1 else None
        else:
            named = node.child_by_field_name("name")
        if named is None:
            named = node.child_by_field_name("declarator")
            while named is not None and (deeper := named.child_by_field_name("declarator")):
                named = deeper
        name = self._text(named) if named is not None else ""
        return name.replace("::", ".") if self._language == "cpp" else name

    def _owner(self, node: Any) -> str:
        """The name that members of an opened node carry: a type's, a module's, a namespace's."""
        named = node.child_by_field_name("type" if node.type == "impl_item" else "name")
        if named is None or node.type not in (
            "impl_item", "mod_item", "namespace_definition", "internal_module",
        ):  # fmt: skip
            return ""
        return self._text(named).partition("<")[0]

    def _called(self, node: Any) -> Iterator[str]:
        """The last name of every call's function, in order."""
        stack = [node]
        while stack:
            one = stack.pop()
            if one.type in ("call", "call_expression", "method_invocation", "new_expression",
                            "object_creation_expression", "macro_invocation"):  # fmt: skip
                target = (
                    one.child_by_field_name("function")
                    or one.child_by_field_name("name")
                    or one.child_by_field_name("constructor")
                    or one.child_by_field_name("type")
                    or one.child_by_field_name("macro")
                )
                if target is not None and target.end_byte - target.start_byte < 200:
                    yield _last_word(self._text(target).partition("<")[0])
            if one.type == "token_tree":  # inside a Rust macro nothing is parsed
                yield from _names_before_brackets(one, self._data)
                continue
            stack.extend(reversed(one.children))

    def _text(self, node: Any) -> str:
        return self._data[node.start_byte : node.end_byte].decode("utf-8", "replace")


def _names_before_brackets(tree: Any, data: bytes) -> Iterator[str]:
    """Identifiers of a token tree that stand right before round brackets."""
    children = tree.children
    for index, child in enumerate(children):
        if child.type == "token_tree":
            before = children[index - 1] if index else None
            is_call = data[child.start_byte : child.start_byte + 1] == b"("
            if is_call and before is not None and before.type == "identifier":
                yield data[before.start_byte : before.end_byte].decode("utf-8", "replace")
            yield from _names_before_brackets(child, data)


def _unwrapped(node: Any) -> Any:
    """What a decorator, `export` or `template<…>` stands around."""
    while node.type in _WRAPPERS:
        inner = node.child_by_field_name("definition") or node.child_by_field_name("declaration")
        if inner is None:
            inner = next((c for c in reversed(node.named_children) if c.type in _KINDS), None)
        if inner is None:
            return node
        node = inner
    return node


def _function_value(node: Any) -> Any:
    """The function in `const f = …`, or None."""
    declared = [c for c in node.named_children if c.type == "variable_declarator"]
    value = declared[0].child_by_field_name("value") if len(declared) == 1 else None
    is_function = value is not None and value.type in ("arrow_function", "function_expression")
    return value if is_function else None


def _is_prototype(node: Any) -> bool:
    inner = node.child_by_field_name("declarator")
    while inner is not None and inner.type != "function_declarator":
        inner = inner.child_by_field_name("declarator")
    return inner is not None


def _joined(around: str, name: str) -> str:
    return f"{around}.{name}" if around and name else around or name


def _last_word(text: str) -> str:
    """The last identifier of a text: of `a.b.c` it is c, of `(s *Server)` it is Server."""
    word = ""
    for letter in reversed(text):
        if letter.isalnum() or letter in "_$":
            word = letter + word
        elif word:
            break
    return word
