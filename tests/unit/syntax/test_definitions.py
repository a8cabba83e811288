"""Definitions and their documentation in every language that has them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.syntax.comments import comment_text, description_of
from codetune.syntax.definitions import definitions
from codetune.syntax.test_cases import imported_names, stem_of, test_cases

SAMPLES = {
    "python": (
        'class Cart:\n    """Holds items."""\n\n    @property\n    def total(self):\n'
        '        """Sum of é prices.\n\n        :rtype: int\n        """\n        # all\n        return 1\n',
        [("class", "Cart", "Holds items."), ("method", "Cart.total", "Sum of é prices.")],
    ),
    "javascript": (
        "/**\n * Adds two.\n * @param a one\n */\nexport const add = (a, b) => {\n  return a + b;\n};\n"
        "// not a doc\nfunction bare() { return 1; }\n",
        [("function", "add", "Adds two."), ("function", "bare", None)],
    ),
    "typescript": (
        "/** A shape. */\nexport interface Shape { a: number }\n"
        "export class Box {\n  /** Its é size. */\n  size(): number { return 1; }\n}\n",
        [("interface", "Shape", "A shape."), ("class", "Box", None), ("method", "Box.size", "Its é size.")],
    ),
    "rust": (
        "/// Adds two.\n/// # Examples\n/// ```\n/// add();\n/// ```\n#[inline]\npub fn add() -> u8 { 1 }\n"
        "impl Cart {\n    /// Its sum.\n    pub fn total(&self) {}\n}\n",
        [("function", "add", "Adds two."), ("method", "Cart.total", "Its sum.")],
    ),
    "go": (
        "package a\n\n// Add adds\n// two.\nfunc Add() int { return 1 }\n\n"
        "// Total sums.\nfunc (c *Cart[T]) Total() {}\n\nvar x = 1 // tail\nfunc bare() {}\n",
        [("function", "Add", "Add adds\ntwo."), ("method", "Cart.Total", "Total sums."), ("function", "bare", None)],
    ),
    "java": (
        "/** A cart. */\npublic class Cart {\n  /**\n   * Its sum.\n   * @return it\n   */\n"
        "  @Override\n  public int total() { return 1; }\n}\n",
        [("class", "Cart", "A cart."), ("method", "Cart.total", "Its sum.")],
    ),
    "c": (
        "/* Adds\n * two. */\nstatic int *add(int a) { return a; }\n\n/* Both of these. */\nint p(int a);\nint q(int a);\n"
        "\n/* One. */\nint r(int a);\n",
        [("function", "add", "Adds\ntwo."), ("function", "p", None), ("function", "q", None), ("function", "r", "One.")],
    ),
    "cpp": (
        "namespace shop {\n/// A cart.\ntemplate <class T>\nclass Cart {\n public:\n  /// Its sum.\n  int total() const;\n};\n"
        "int Cart::total() const { return 1; }\n}\n",
        [("class", "shop.Cart", "A cart."), ("method", "shop.Cart.total", "Its sum."), ("method", "shop.Cart.total", None)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("language", SAMPLES)
def test_definitions_are_found_with_what_documents_them(language: str) -> None:
    text, wanted = SAMPLES[language]
    found = [
        (
            one.kind,
            one.qualified,
            description_of(comment_text(text[slice(*one.doc)], language)) if one.doc else None,
        )
        for one in definitions(text, language)
    ]
    assert found == wanted


def test_a_body_begins_behind_signature_and_docstring() -> None:
    text = SAMPLES["python"][0]
    total = definitions(text, "python")[1]
    assert total.body is not None
    assert text[slice(*total.body)] == "        # all\n        return 1"
    assert text[slice(*total.whole)].startswith("@property\n")
    rust = SAMPLES["rust"][0]
    add = definitions(rust, "rust")[0]
    assert add.body is not None
    assert rust[slice(*add.whole)].startswith("#[inline]\npub fn add")
    assert rust[slice(*add.body)] == " 1 }"


@pytest.mark.parametrize(
    ("language", "path", "text", "wanted"),
    [
        ("python", "tests/test_cart.py", "from shop.cart import total\n\ndef test_total():\n    assert total([1]) == 1\n", ("test_total", "total")),
        ("go", "cart_test.go", "package a\nfunc TestTotal(t *testing.T) { Total() }\n", ("TestTotal", "Total")),
        ("rust", "src/cart.rs", "fn total() {}\n#[cfg(test)]\nmod tests {\n  use super::*;\n  #[test]\n  fn sums() { assert_eq!(total(), ()); }\n}\n", ("tests.sums", "total")),
        ("typescript", "cart.test.ts", 'import { total } from "./cart";\ndescribe("cart", () => {\n  it("sums é", () => { expect(total([1])).toBe(1); });\n});\n', ("sums é", "total")),
        ("java", "CartTest.java", "class CartTest {\n  @Test\n  void sums() { cart.total(); }\n  void help() {}\n}\n", ("CartTest.sums", "total")),
    ],
)  # fmt: skip
def test_tests_are_found_with_what_they_call(
    language: str, path: str, text: str, wanted: tuple[str, str]
) -> None:
    (case,) = test_cases(text, language, path)
    assert case.name == wanted[0]
    assert wanted[1] in case.calls
    assert text[slice(*case.whole)].strip()


def test_imports_are_read_by_their_words() -> None:
    assert {"shop", "cart", "total"} <= imported_names(
        "from shop.cart import (\n  total,\n)\n", "python"
    )
    assert "total" in imported_names('const { total } = require("./cart");\n', "javascript")
    assert (
        stem_of("tests/test_cart.py") == stem_of("src/cart/__init__.py") == stem_of("cart.spec.ts")
    )


def test_marks_are_taken_off_and_details_left_out() -> None:
    assert (
        comment_text('r"""\n    Raw \\d.\n\n      More.\n    """', "python")
        == "Raw \\d.\n\n  More."
    )
    assert comment_text("/**\n * One.\n *\n *   two\n */", "java") == "One.\n\n  two"
    assert comment_text("    /// One.\n    ///\n    /// Two.", "rust") == "One.\n\nTwo."
    assert description_of("Sum.\n\nParameters\n----------\na : int") == "Sum."
    assert description_of("Sum.\n\nArgs:\n    a: it") == "Sum."
    assert description_of("Arguments are not needed here.") == "Arguments are not needed here."


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(SAMPLES)),
    st.lists(st.sampled_from(["é", "\n", "{", "}", '"', "/* x */", "def f(): pass\n", "🙂", "# a\n"])),
    st.integers(0, 400),
)  # fmt: skip
def test_places_lie_in_any_text(language: str, noise: list[str], at: int) -> None:
    sample = SAMPLES[language][0]
    text = sample[:at] + "".join(noise) + sample[at:]
    for one in definitions(text, language, calls=True):
        assert 0 <= one.whole[0] < one.whole[1] <= len(text)
        for span in (one.doc, one.body):
            assert span is None or 0 <= span[0] <= span[1] <= len(text)
