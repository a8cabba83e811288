"""What a doc comment or docstring says, without the marks that make it one."""

from __future__ import annotations

import ast
import inspect
import re
import warnings

_LINE_MARK = re.compile(r"^[ \t]*(?:///?!?|//!|#+)[ ]?")
_BLOCK_OPEN = re.compile(r"^[ \t]*/\*[*!]*[ \t]?")
_BLOCK_CLOSE = re.compile(r"[ \t]*\*+/[ \t]*$")
_BLOCK_LINE = re.compile(r"^[ \t]*\*(?:[ ]|(?=\S)|$)")
# Where the description ends and the list of parameters begins, in the forms of each language's
# tools: Javadoc and JSDoc, Sphinx, Google's and NumPy's docstrings, rustdoc, Doxygen.
_DETAILS = re.compile(
    r"^(?:[@\\](?:param|return|returns|throws|exception|see|since|author|type|template|example|"
    r"deprecated|default|private|public|internal|hidden|ingroup|brief\s*$|retval|tparam|version|"
    r"category|typeParam|remarks|link|override|memberof|module|class|function)\b"
    r"|:(?:param|type|returns?|rtype|raises?|arg|ivar|vartype|meta)\b"
    r"|(?:Args|Arguments|Parameters|Params|Returns?|Raises|Yields|Examples?|Usage|Attributes|"
    r"Keyword Args|Keyword Arguments|See Also|References|Notes?|Example usage|Inputs?|Outputs?)"
    r"[ \t]*:[ \t]*$"
    r"|#+ (?:Examples?|Panics|Errors|Safety|Arguments|Parameters|Returns?)\b"
    r"|>>> |```)",
    re.MULTILINE,
)
_NUMPY = re.compile(r"^[A-Z][A-Za-z ]{2,20}\n-{3,}[ \t]*$", re.MULTILINE)


def comment_text(raw: str, language: str) -> str:
    """The text of a doc comment as its author would read it aloud: no marks, no indentation."""
    if language == "python":
        return _docstring(raw)
    raw = raw.strip()
    if raw.startswith("/*"):
        text = _BLOCK_CLOSE.sub("", _BLOCK_OPEN.sub("", raw, count=1), count=1)
        first, *rest = text.split("\n")
        lines = [first, *(_BLOCK_LINE.sub("", line, count=1) for line in rest)]
        return inspect.cleandoc("\n".join(lines)).strip()
    lines = [_LINE_MARK.sub("", line, count=1) for line in raw.split("\n")]
    return inspect.cleandoc("\n" + "\n".join(lines)).strip()


def description_of(doc: str) -> str:
    """The part of a doc's text before its parameters, examples and other tagged sections."""
    ends = [match.start() for match in (_DETAILS.search(doc), _NUMPY.search(doc)) if match]
    return doc[: min(ends, default=len(doc))].strip()


def _docstring(raw: str) -> str:
    """A Python string literal's value, without the indentation of its lines."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a plain string: the author's affair
            value = ast.literal_eval(raw.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = raw.strip().lstrip("rRuUbB").strip("\"'")
    return inspect.cleandoc(value).strip() if isinstance(value, str) else ""
