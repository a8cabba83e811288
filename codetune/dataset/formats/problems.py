"""What is wrong with a file of training data: where, and what."""

from __future__ import annotations

from typing import NamedTuple

from codetune.errors import DatasetError


class Problem(NamedTuple):
    """`row` is the 1-based line of a text file, the 1-based row of a table; 0 is the whole file."""

    file: str
    row: int
    field: str
    message: str

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row else ""
        field = f", field '{self.field}'" if self.field else ""
        return f"{self.file}{row}{field}: {self.message}"


class RowError(Exception):
    """A row that cannot be used; caught by the reader, which knows file and row."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


class Problems:
    """Collects problems; with `stop`, the `most`-th one ends the reading."""

    def __init__(self, most: int = 20, *, stop: bool = True) -> None:
        self.most, self.stop = most, stop
        self.first: list[Problem] = []  # `most` at most
        self.total = 0

    def add(self, file: str, row: int, field: str, message: str) -> None:
        """Note a problem.

        Raises:
            DatasetError: there are enough of them now.
        """
        self.total += 1
        if len(self.first) < self.most:
            self.first.append(Problem(file, row, field, message))
        if self.stop and self.total >= self.most:
            self.refuse()

    def refuse(self) -> None:
        """Raise if there is any problem.

        Raises:
            DatasetError: naming the first ones.
        """
        if not self.total:
            return
        more = f"\n  … {self.total - len(self.first)} more" if self.total > len(self.first) else ""
        stopped = self.stop and self.total >= self.most
        at_least = "At least " if stopped else ""
        lines = "".join(f"\n  {problem}" for problem in self.first)
        noun = "problem" if self.total == 1 else "problems"
        raise DatasetError(
            f"{at_least}{self.total} {noun} in the training data:{lines}{more}",
            advice="Mend these rows, name the columns (columns: {instruction: question}), or leave "
            "bad rows out (skip_bad: true in the set's entry of dataset.mix).",
        )
