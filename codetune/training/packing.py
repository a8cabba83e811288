"""Best-fit-decreasing packing: documents into rows of at most one window, none cut.

Ding et al., "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830). Only lengths
are looked at, so that packing a million examples takes a second and no tokens are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codetune.errors import TrainingError


def pack(lengths: Sequence[int] | npt.NDArray[np.integer], window: int) -> list[list[int]]:
    """Rows of indices into `lengths`; each row's sum is at most `window`.

    Each document goes, longest first, into the row it fills best. The rows come in a fixed
    order: the sampler shuffles them.

    Raises:
        TrainingError: a document is longer than the window.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and int(sizes.max()) > window:
        raise TrainingError(
            f"The data has examples of up to {int(sizes.max())} tokens, but the training window "
            f"is {window}.",
            advice=f"Set training.window to at least {int(sizes.max())}, or build the dataset "
            "with a smaller window.",
        )
    rows: list[list[int]] = []
    # open_rows[r] lists the rows with exactly r tokens of room; bit r of `rooms` says that it
    # is not empty, so that the best fit is one bit operation away instead of a search.
    open_rows: list[list[int]] = [[] for _ in range(window + 1)]
    rooms = 0
    for index in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[index])
        fitting = rooms >> size
        if fitting:
            room = size + ((fitting & -fitting).bit_length() - 1)
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms &= ~(1 << room)
        else:
            room, row = window, len(rows)
            rows.append([])
        rows[row].append(index)
        open_rows[room - size].append(row)
        rooms |= 1 << (room - size)
    return rows


def micro_batches(
    rows: Sequence[Sequence[int]], rows_per_batch: int, seed: int, epoch: int
) -> list[list[int]]:
    """This epoch's micro-batches, each a list of document indices, in a seeded order.

    A micro-batch is `rows_per_batch` rows (the last may be smaller). The order is a function
    of seed and epoch only: a resumed run finds its place by counting.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(rows)).tolist()
    return [
        [document for row in order[start : start + rows_per_batch] for document in rows[row]]
        for start in range(0, len(order), rows_per_batch)
    ]
