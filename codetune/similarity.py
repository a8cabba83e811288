"""Exact digests and near-duplicate search over MinHash signatures.

A text becomes the set of its shingles: runs of 24 bytes that start where a token starts, blanks
collapsed, so that reformatting does not hide a copy. Rensa (Rust) turns the shingles' 64-bit
hashes into a signature of 128 numbers whose agreement estimates the sets' Jaccard similarity
(Broder 1997); banding (Leskovec et al., Mining of Massive Datasets, ch. 3) finds candidates, and
only candidates whose estimate reaches the threshold count.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Signature = NDArray[np.uint32]  # shape (128,)

PERMUTATIONS = 128
_SEED = 42
_SHINGLE = 24  # bytes, three 64-bit words
_ROWS = (8, 4, 2, 1)  # of a band: the more, the fewer candidates and the more pairs are missed
_FOUND = 0.94  # of the pairs at the threshold, at least; 8 rows find 94.7 % at 0.8
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # odd 64-bit mixers (xxHash)


def exact_digest(text: str) -> str:
    """SHA-256 of the text, hexadecimal, blind to blanks at line ends and at the file's end."""
    lines = "\n".join(map(str.rstrip, text.rstrip().split("\n")))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def shingles(text: str) -> NDArray[np.uint64]:
    """64-bit hashes of the text's shingles, in order, one for each token; empty for no tokens."""
    data = b" ".join(text.encode("utf-8", "surrogatepass").split())
    starts = _token_starts(np.frombuffer(data, dtype=np.uint8))
    padded = data + bytes(_SHINGLE)
    # Every byte offset seen as a little-endian 64-bit word, without copying.
    words = np.ndarray((len(data) + _SHINGLE - 7,), dtype="<u8", buffer=padded, strides=(1,))
    mixed = np.zeros(len(starts), dtype=np.uint64)
    for step, odd in enumerate(_ODD):
        mixed = (mixed ^ words[starts + 8 * step]) * np.uint64(odd)
        mixed ^= mixed >> np.uint64(32)
    return mixed


def fingerprint(text: str) -> Signature:
    """The MinHash signature of a text: 128 numbers, equal for equal sets of shingles."""
    return signature_of(shingles(text))


def stored_signature(data: bytes) -> Signature:
    """The signature whose bytes these are."""
    return np.frombuffer(data, dtype=np.uint32)


def signature_of(hashes: NDArray[np.uint64]) -> Signature:
    """The MinHash signature of a set of 64-bit hashes (duplicates do not matter)."""
    from rensa import RMinHash

    offsets = [0, len(hashes)]
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, _SEED)
    return np.array(matrix.to_rows()[0], dtype=np.uint32)


def similarity(one: Signature, other: Signature) -> float:
    """The estimated Jaccard similarity, 0..1; its standard error is at most 0.045."""
    return float(np.count_nonzero(one == other)) / PERMUTATIONS


class NearDuplicates:
    """A growing index of signatures; memory is about 2 kB for each text, whatever its length.

    Add what is to be preferred first, and ask `find` before adding: the answer is then the
    earliest similar text.
    """

    def __init__(self, threshold: float = 0.8) -> None:
        self.threshold = threshold
        self._keys: list[str] = []
        self._signatures = np.empty((256, PERMUTATIONS), dtype=np.uint32)
        self._last: tuple[Signature, list[int]] | None = None
        self._buckets: dict[int, int] = {}  # band hash → newest member
        self._bands = _bands_for(threshold)
        self._older = np.empty((256, self._bands), np.int32)  # next older member of the bucket

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str, signature: Signature) -> None:
        """Index a signature under `key` (keys need not differ)."""
        row = len(self._keys)
        if row == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
            self._older = np.concatenate([self._older, np.empty_like(self._older)])
        self._keys.append(key)
        self._signatures[row] = signature
        buckets = self._buckets
        for band, bucket in enumerate(self._bands_of(signature)):
            self._older[row, band] = buckets.get(bucket, -1)
            buckets[bucket] = row

    def _bands_of(self, signature: Signature) -> list[int]:
        """The bands' hashes, kept for the `add` that usually follows a `find`."""
        if self._last is None or self._last[0] is not signature:
            self._last = (signature, _band_hashes(signature, self._bands))
        return self._last[1]

    def find(self, signature: Signature) -> str | None:
        """The key of the earliest added text at or above the threshold, or None."""
        found = self.find_all(signature)
        return found[0][0] if found else None

    def find_all(self, signature: Signature) -> list[tuple[str, float]]:
        """Every similar text as (key, estimated similarity), earliest first."""
        candidates: set[int] = set()
        for band, bucket in enumerate(self._bands_of(signature)):
            row = self._buckets.get(bucket, -1)
            while row >= 0:
                candidates.add(row)
                row = int(self._older[row, band])
        if not candidates:
            return []
        rows = np.array(sorted(candidates))
        shares = (self._signatures[rows] == signature).sum(axis=1) / PERMUTATIONS
        return [
            (self._keys[row], float(share))
            for row, share in zip(rows.tolist(), shares.tolist(), strict=True)
            if share >= self.threshold
        ]


def _token_starts(data: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Offsets where a word begins, and of every mark that is neither word nor blank."""
    if not len(data):
        return np.empty(0, dtype=np.intp)
    word = _IS_WORD[data]
    begins = word.copy()
    begins[1:] &= ~word[:-1]
    return np.flatnonzero(begins | ~(word | (data == 32)))


def _word_table() -> NDArray[np.bool_]:
    table = np.zeros(256, dtype=np.bool_)
    table[[byte for byte in range(256) if byte >= 128 or chr(byte).isalnum() or byte == 95]] = True
    return table


def _bands_for(threshold: float) -> int:
    """The fewest bands with which enough of the pairs at the threshold share a band."""
    found = (n for n in _ROWS if 1 - (1 - threshold**n) ** (PERMUTATIONS // n) >= _FOUND)
    return PERMUTATIONS // next(found, _ROWS[-1])


def _band_hashes(signature: Signature, bands: int) -> list[int]:
    """One 64-bit number for each band; the band's index is mixed in, so bands never meet."""
    rows = signature.reshape(bands, -1).astype(np.uint64)
    mixed = np.arange(1, bands + 1, dtype=np.uint64) * np.uint64(_ODD[0])
    for column in range(rows.shape[1]):
        mixed = (mixed ^ rows[:, column]) * np.uint64(_ODD[1])
        mixed ^= mixed >> np.uint64(29)
    hashes: list[int] = mixed.tolist()
    return hashes


_IS_WORD = _word_table()
