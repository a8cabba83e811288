"""`sft.jsonl`, a row an instruction, and `sft_readable.json`, the same for people."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from types import TracebackType
from typing import Self

from codetune.dataset.instruct.pairs import Pair


class InstructionFiles:
    """Writes both files as the pairs come, which must be grouped by their kind."""

    def __init__(self, folder: Path) -> None:
        self._rows = (folder / "sft.jsonl").open("w", encoding="utf-8")
        self._readable = (folder / "sft_readable.json").open("w", encoding="utf-8")
        self._kind = ""
        self._readable.write("{")

    def __enter__(self) -> Self:
        return self

    def add(self, pair: Pair) -> None:
        """Write one pair to both files."""
        row = pair.row()
        self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        begin = ",\n"
        if pair.kind != self._kind:
            close = "\n  ],\n" if self._kind else "\n"
            begin, self._kind = f"{close}  {json.dumps(pair.kind)}: [\n", pair.kind
        # Lines as a list: JSON has no other way to show a text of several lines.
        shown = {
            "instruction": pair.instruction,
            "input": pair.input.split("\n") if pair.input else [],
            "output": pair.output.split("\n"),
            "source": row["source"],
        }
        text = json.dumps(shown, ensure_ascii=False, indent=2)
        self._readable.write(begin + textwrap.indent(text, "    "))

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._readable.write("\n  ]\n}\n" if self._kind else "}\n")
        self._rows.close()
        self._readable.close()
