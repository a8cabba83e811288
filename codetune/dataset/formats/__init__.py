"""Training data in the formats that people have: read and written as streams of examples.

A file is a container (JSON, JSON lines, CSV, Parquet, Arrow, text) whose rows have a layout
(alpaca, sharegpt, messages, prompt-completion, text); every combination works. The canonical
`records.Example` is the middle.
"""

from codetune.dataset.formats.layouts import LAYOUTS, LayoutName
from codetune.dataset.formats.problems import Problem, Problems
from codetune.dataset.formats.rows import check_proportion
from codetune.dataset.formats.sets import digest_of_set, left_out_of, not_read, read_set
from codetune.dataset.formats.writing import write_set

__all__ = [
    "LAYOUTS",
    "LayoutName",
    "Problem",
    "Problems",
    "check_proportion",
    "digest_of_set",
    "left_out_of",
    "not_read",
    "read_set",
    "write_set",
]
