"""The order in which documents are read: languages by fixed shares of bytes, all shuffled."""

from __future__ import annotations

from pathlib import Path

# Shares of the training bytes. A language with less text than its share is read repeatedly,
# each time with other cuts and other holes to fill.
SHARES = {
    "python": 0.72,
    "c": 0.085,
    "javascript": 0.06,
    "markdown": 0.03,
    "rst": 0.03,
    "cython": 0.025,
    "html": 0.015,
    "cpp": 0.01,
    "yaml": 0.01,
    "typescript": 0.005,
    "toml": 0.005,
    "shell": 0.005,
}

MOST_REPEATS = 3


def reading_order(documents: Path, total_bytes: int, seed: int) -> list[int]:
    """Row numbers of `documents.parquet` that make up about `total_bytes` of mixed text."""
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(documents, columns=["language", "text"])
    sizes = pc.binary_length(table["text"]).to_numpy()
    languages = np.array(table["language"].to_pylist())
    generator = np.random.default_rng(seed)
    chosen = []
    for language, share in SHARES.items():
        rows = np.flatnonzero(languages == language)
        wanted = share * total_bytes
        if len(rows) == 0:
            continue
        repeats = min(MOST_REPEATS, int(np.ceil(wanted / sizes[rows].sum())))
        order = np.concatenate([generator.permutation(rows) for _ in range(repeats)])
        enough = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
        chosen.append(order[:enough])
    mixed: list[int] = generator.permutation(np.concatenate(chosen)).tolist()
    return mixed
