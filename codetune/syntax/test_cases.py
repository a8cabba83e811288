"""Test cases of a file, by the conventions of its language, and what the file imports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from codetune.syntax.definitions import Range, definitions
from codetune.syntax.parse import character_offsets, parse_tree

_SCRIPTS = frozenset({"javascript", "typescript", "tsx"})
_IMPORTS = frozenset(
    {"import_statement", "import_from_statement", "import_declaration", "use_declaration"}
)
_CALL = re.compile(rb"^(?:it|test|Deno\.test)(?:\.(?:only|concurrent))?$")
_WORD = re.compile(r"[A-Za-z_]\w*")
_CALLED = re.compile(r"([A-Za-z_$][\w$]*)\s*(?:<[\w, ]*>)?\(")
_TEST_PATH = re.compile(
    r"(?:^|/)(?:tests?|__tests__|testing|spec)/|(?:^|/)test_[^/]*$|[._-](?:test|spec)s?\.[^/]*$"
    r"|(?:Test|Tests|TestCase|IT)\.java$"
)


@dataclass(frozen=True)
class TestCase:
    """One test: its name, its place in characters, and the names it calls, in order."""

    __test__ = False  # pytest collects classes by their name

    name: str
    whole: Range
    calls: tuple[str, ...]


def is_test_path(path: str) -> bool:
    """Whether a file's name or folder says that it holds tests."""
    return bool(_TEST_PATH.search(path))


def test_cases(text: str, language: str, path: str) -> list[TestCase]:
    """The tests of a file in order; [] where none is recognised."""
    if language in _SCRIPTS:
        return _script_cases(text, language) if is_test_path(path) else []
    found = []
    for one in definitions(text, language, calls=True):
        if one.body is not None and _is_test(one.name, one.qualified, one.is_test, language, path):
            found.append(TestCase(one.qualified, one.whole, one.calls))
    return found


def imported_names(text: str, language: str) -> frozenset[str]:
    """Every word of the file's import statements: modules, their parts, and names."""
    root, data = parse_tree(text, language)
    if root is None:
        return frozenset()
    words: set[str] = set()
    stack = list(root.children)
    while stack:
        node = stack.pop()
        if node.type in ("mod_item", "declaration_list"):
            stack.extend(node.children)
        source = data[node.start_byte : min(node.end_byte, node.start_byte + 4000)]
        requires = node.type == "lexical_declaration" and b"require(" in source
        if node.type in _IMPORTS or requires:
            words.update(_WORD.findall(source.decode("utf-8", "replace")))
    return frozenset(words)


test_cases.__test__ = False  # type: ignore[attr-defined]


def _is_test(name: str, qualified: str, marked: bool, language: str, path: str) -> bool:
    if language == "python":
        return name.startswith("test") and is_test_path(path)
    if language == "go":
        return name.startswith("Test") and name != "TestMain" and path.endswith("_test.go")
    if language in ("rust", "java"):
        return marked
    return "test" in qualified.lower() and is_test_path(path)


def _script_cases(text: str, language: str) -> list[TestCase]:
    """`test("name", () => …)` and `it(…)` of Jest, Vitest, Mocha and Deno."""
    root, data = parse_tree(text, language)
    if root is None:
        return []
    found = [(node, name) for node, name in _script_calls(root, data)]
    at = character_offsets(data, text, (o for n, _ in found for o in (n.start_byte, n.end_byte)))
    cases = []
    for node, name in found:
        whole = (at[node.start_byte], at[node.end_byte])
        cases.append(TestCase(name, whole, tuple(_CALLED.findall(text[slice(*whole)]))))
    return cases


def _script_calls(root: Any, data: bytes) -> Iterator[tuple[Any, str]]:
    stack = [root]
    while stack:
        node = stack.pop()
        if node.type == "call_expression" and not node.has_error:
            target, given = (node.child_by_field_name(f) for f in ("function", "arguments"))
            if target is not None and given is not None and given.named_child_count >= 2:
                first = given.named_children[0]
                called = data[target.start_byte : target.end_byte]
                if _CALL.match(called) and first.type in ("string", "template_string"):
                    name = data[first.start_byte + 1 : first.end_byte - 1]
                    parent = node.parent
                    whole = parent if parent and parent.type == "expression_statement" else node
                    yield whole, name.decode("utf-8", "replace")
                    continue
        # Tests stand at the top or inside describe(…, () => {…}): never deep in a program.
        if node.end_byte - node.start_byte > 40:
            stack.extend(reversed(node.named_children))


def stem_of(path: str) -> str:
    """A file's name without endings and test marks: `test_cart.py` and `cart.spec.ts` are cart."""
    place = PurePosixPath(path)
    name = place.name.partition(".")[0]
    if name in ("__init__", "index", "mod", "lib"):  # these stand for their folder
        name = place.parent.name
    return re.sub(r"^(?:test_|Test(?=[A-Z]))|(?:_test|_spec|Tests?|TestCase|IT)$", "", name)
