"""Token files on disk: written once in order, read memory-mapped, so that a corpus costs no memory.

`tokens.bin` holds all ids end to end, `index.npy` one record an example, `store.json` the rest.
`loss.bin` is there only if some example says token by token which ones carry loss: a byte for
each token, at the token's place. It is a sparse file: the other examples take no room in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from codetune.artifacts import write_json
from codetune.errors import ArtifactError

STREAMS = ("ntp", "fim", "sft", "replay")  # the numbers in the index's column `stream`
CODE_STREAMS = ("ntp", "fim", "replay")  # those of files' text, replayed ones of both kinds

MASKED = np.uint32(1 << 31)  # set in `loss_from`: the tokens with loss stand in loss.bin

INDEX = np.dtype(
    [
        ("offset", "<u8"),  # of the first token, in tokens
        ("length", "<u4"),
        ("loss_from", "<u4"),  # tokens before it are context and carry no loss
        ("gap_from", "<u4"),  # the first token that fills a gap, up to the end; 0: there is none
        ("stream", "u1"),
        ("weight", "<f4"),
        ("document", "<u4"),  # examples of one file share the number
    ]
)
Ids = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]
Index = npt.NDArray[np.void]  # of dtype INDEX


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The smallest number type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class TokenStore:
    """A finished token file; `store[i]` is `(ids, loss_from)` without copying the ids."""

    def __init__(
        self,
        path: Path,
        facts: dict[str, Any],
        tokens: Ids,
        index: Any,
        loss: Flags | None = None,
    ) -> None:
        self.path, self.facts, self._tokens, self._index = path, facts, tokens, index
        self._loss = loss
        self.vocab_size = int(facts["vocab_size"])
        self.stream_names: tuple[str, ...] = tuple(facts.get("streams", STREAMS))

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """Open the store in the folder `path`.

        Raises:
            ArtifactError: the folder is no store, or its files do not belong together.
        """
        try:
            facts = json.loads((path / "store.json").read_text())
            index = np.load(path / "index.npy", mmap_mode="r", allow_pickle=False)
            kind, size = np.dtype(facts["dtype"]), (path / "tokens.bin").stat().st_size
            complete = size == facts["tokens"] * kind.itemsize and len(index) == facts["examples"]
            if index.dtype != INDEX or not complete:
                raise ValueError("its files do not belong together")
            empty = np.zeros(0, kind)
            tokens = np.memmap(path / "tokens.bin", kind, mode="r") if size else empty
            loss: Flags | None = None
            if facts.get("masked"):
                loss = np.memmap(path / "loss.bin", np.bool_, mode="r")
                if len(loss) != facts["tokens"]:
                    raise ValueError("loss.bin has another length than tokens.bin")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path} is not a token store: {error}.", advice="Build the dataset again."
            ) from error
        return cls(path, facts, tokens, index, loss)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> tuple[Ids, int]:
        row = self._index[number]
        start = int(row["offset"])
        ids = self._tokens[start : start + int(row["length"])]
        return ids, int(row["loss_from"] & ~MASKED)

    def loss(self, number: int) -> Flags:
        """Which tokens of an example carry loss: (length,), True where one is learned."""
        row = self._index[number]
        start, length = int(row["offset"]), int(row["length"])
        if row["loss_from"] & MASKED:
            assert self._loss is not None
            return np.asarray(self._loss[start : start + length])
        return np.arange(length) >= int(row["loss_from"])

    def run(self, first: int, last: int) -> Iterator[Ids]:
        """The ids of the examples first..last, in order."""
        tokens, rows = np.asarray(self._tokens), self._index[first:last]
        for start, length in zip(rows["offset"].tolist(), rows["length"].tolist(), strict=True):
            yield tokens[start : start + length]

    @property
    def tokens(self) -> int:
        """How many tokens there are in all."""
        return int(self.facts["tokens"])

    @property
    def lengths(self) -> Ids:
        """Tokens of every example."""
        return self._column("length")

    @property
    def streams(self) -> Ids:
        """The number in `stream_names` of every example."""
        return self._column("stream")

    @property
    def documents(self) -> Ids:
        """The file's number of every example."""
        return self._column("document")

    @property
    def gaps(self) -> Ids:
        """The place in every example from which on its tokens fill a gap and end; 0: no gap."""
        return self._column("gap_from")

    @property
    def weights(self) -> npt.NDArray[np.floating[Any]]:
        """The weight of every example's loss."""
        return np.asarray(self._index["weight"])

    def _column(self, name: str) -> Ids:
        return np.asarray(self._index[name])


class TokenWriter:
    """Appends examples to a new store; used in a `with` block, it is complete at its end."""

    def __init__(self, path: Path, vocab_size: int, streams: Sequence[str] = ()) -> None:
        """`streams` are names beside those in `STREAMS`; their numbers follow."""
        path.mkdir(parents=True, exist_ok=True)
        self.streams = (*STREAMS, *(name for name in streams if name not in STREAMS))
        self.path, self.vocab_size = path, vocab_size
        self.dtype = token_type(vocab_size)
        self.examples = self.tokens = 0
        self.tokens_by_stream = dict.fromkeys(self.streams, 0)
        self.masked = 0  # examples with a mask of their own
        self._tokens = (path / "tokens.bin").open("wb", buffering=1 << 20)
        self._rows = (path / "index.rows").open("w+b", buffering=1 << 20)
        self._loss: BinaryIO | None = None

    def append(
        self,
        ids: Sequence[int] | Ids,
        *,
        stream: str,
        document: int,
        loss_from: int = 0,
        gap_from: int = 0,
        weight: float = 1.0,
        loss: Flags | None = None,
    ) -> None:
        """Write one example's ids, which must be below `vocab_size`.

        The tokens that carry loss are those from `loss_from` on, or those where `loss` is True.
        The tokens from `gap_from` on fill a gap, if it is not 0.
        """
        array = np.asarray(ids, self.dtype)
        if gap_from and not 0 < gap_from < len(array):
            raise ValueError(f"the gap cannot begin at {gap_from} of {len(array)} tokens")
        if loss is not None:
            if len(loss) != len(array):
                raise ValueError("as many flags are needed as there are ids")
            loss_from = int((np.argmax(loss) if loss.any() else len(loss)) | MASKED)
            self._write_loss(self.tokens, loss)
        number = self.streams.index(stream)
        row = (self.tokens, len(array), loss_from, gap_from, number, weight, document)
        self._tokens.write(array.tobytes())
        self._rows.write(np.array(row, INDEX).tobytes())
        self.tokens += len(array)
        self.tokens_by_stream[stream] += len(array)
        self.examples += 1

    def extend(self, tokens: bytes, index: Index, *, first: int) -> None:
        """Write many examples whose ids stand end to end in `tokens`, as `token_type` numbers.

        `index` has their rows, with offsets from the first id, and document numbers from `first`.
        """
        rows = index.copy()
        rows["offset"] += np.uint64(self.tokens)
        rows["document"] += np.uint32(first)
        self._tokens.write(tokens)
        self._rows.write(rows.tobytes())
        self.tokens += len(tokens) // self.dtype.itemsize
        self.examples += len(rows)
        for number, name in enumerate(self.streams):
            self.tokens_by_stream[name] += int(rows["length"][rows["stream"] == number].sum())

    def _write_loss(self, place: int, loss: Flags) -> None:
        if self._loss is None:
            self._loss = (self.path / "loss.bin").open("wb", buffering=1 << 20)
        self._loss.seek(place)
        self._loss.write(np.asarray(loss, np.bool_).tobytes())
        self.masked += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._tokens.close()
        if self._loss is not None:
            self._loss.truncate(self.tokens)
            self._loss.close()
        if kind is None:
            self._finish()
        self._rows.close()
        (self.path / "index.rows").unlink(missing_ok=True)

    def _finish(self) -> None:
        """Turn the rows into a .npy file and write the facts, which make the store complete."""
        self._rows.seek(0)
        with (self.path / "index.npy").open("wb") as file:
            header = {"descr": INDEX.descr, "fortran_order": False, "shape": (self.examples,)}
            np.lib.format.write_array_header_2_0(file, header)
            while block := self._rows.read(1 << 20):
                file.write(block)
        facts = {
            "dtype": self.dtype.str,
            "vocab_size": self.vocab_size,
            "examples": self.examples,
            "tokens": self.tokens,
            "masked": self.masked,
            "streams": list(self.streams),
            "tokens_by_stream": {name: n for name, n in self.tokens_by_stream.items() if n},
        }
        write_json(self.path / "store.json", facts)
