"""Commits' changes under the rules for files: both versions are judged, secrets leave all texts."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.corpus.decode import decode, is_binary
from codetune.corpus.examine import Dropped, examine
from codetune.corpus.licences import LicencesByTime
from codetune.corpus.secrets import redact
from codetune.tables import TableWriter, read_rows

if TYPE_CHECKING:
    from codetune.corpus.config import CorpusOptions

CHANGES = {
    "repo": "string",
    "commit": "string",
    "path": "string",
    "language": "string",
    "licence": "string",
    "message": "string",
    "before": "string",
    "after": "string",
    "files": "int64",
}
# Lines that name people, and machines' notes; they are no part of what a message tells.
_TRAILER = re.compile(
    r"^(?:[A-Z][A-Za-z]+(?:-[A-Za-z]+)*-(?:by|to|from)|Co-authored-by|Change-Id|Cc|CC|PR-URL|"
    r"Reviewed-on|Differential Revision|git-svn-id|Link|Bug|Refs|Test Plan)\s*:.*$|"
    r"^\(cherry picked from commit .*$",
    re.MULTILINE,
)
_ADDRESS = re.compile(r"<?[\w.+-]+@[\w-]+\.[\w.-]+>?")


def clean_changes(
    source: Path, target: Path, options: CorpusOptions, licences: LicencesByTime
) -> dict[str, Any]:
    """Write the changes worth learning from; counts what was kept, and what dropped and why."""
    dropped: Counter[str] = Counter()
    with TableWriter(target, CHANGES) as table:
        for row in read_rows(source):
            made = _clean(row, options, licences)
            if isinstance(made, Dropped):
                dropped[made.reason] += 1
            else:
                table.write(made, size=len(made["before"]) + len(made["after"]))
        return {"kept": table.count, "dropped": dict(dropped.most_common())}


def told(message: str) -> str:
    """A commit message without names, addresses and trailers."""
    text = _ADDRESS.sub("", _TRAILER.sub("", message.replace("\r\n", "\n")))
    return re.sub(r"\n{3,}", "\n\n", redact(text).text).strip()


def _clean(
    row: dict[str, Any], options: CorpusOptions, licences: LicencesByTime
) -> dict[str, Any] | Dropped:
    place = {"in_past": True, "in_present": False, "previous_path": None}
    after = examine(row | place | {"content": row["after"]}, options, licences)
    if isinstance(after, Dropped):
        return after
    before = _text(row["before"], options)
    if before is None:
        return Dropped("not_text", "before the change")
    message = told(row["message"])
    if not message:
        return Dropped("no_message", "nothing but names")
    document = after.document
    if before == document["text"]:
        return Dropped("same_text", "only what cleaning removes was changed")
    kept = {name: row[name] for name in ("repo", "commit", "path", "files")}
    kept |= {name: document[name] for name in ("language", "licence")}
    return kept | {"message": message, "before": before, "after": document["text"]}


def _text(content: bytes, options: CorpusOptions) -> str | None:
    decoded = None if is_binary(content) else decode(content)
    if decoded is None:
        return None
    redacted = redact(decoded.text)
    return None if redacted.kinds and options.secrets == "drop" else redacted.text
