"""`sft.jsonl`, a row an instruction, and `sft_readable.json`, the same for people."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_EDITED = ("system", "history")  # which only a review gives


class InstructionFiles:
    """Writes both files as the rows of pairs come, which must be grouped by their kind."""

    def __init__(self, folder: Path) -> None:
        self._rows = (folder / "sft.jsonl").open("w", encoding="utf-8")
        self._readable = (folder / "sft_readable.json").open("w", encoding="utf-8")
        self._kind = ""
        self._readable.write("{")

    def __enter__(self) -> Self:
        return self

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the row of one pair to both files."""
        self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        begin = ",\n"
        if row["kind"] != self._kind:
            close = "\n  ],\n" if self._kind else "\n"
            begin, self._kind = f"{close}  {json.dumps(row['kind'])}: [\n", row["kind"]
        # Lines as a list: JSON has no other way to show a text of several lines.
        shown = {
            "instruction": row["instruction"],
            "input": row["input"].split("\n") if row["input"] else [],
            "output": row["output"].split("\n"),
            "source": row["source"],
            **{name: row[name] for name in _EDITED if name in row},
        }
        text = json.dumps(shown, ensure_ascii=False, indent=2)
        self._readable.write(begin + textwrap.indent(text, "    "))

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._readable.write("\n  ]\n}\n" if self._kind else "}\n")
        self._rows.close()
        self._readable.close()
