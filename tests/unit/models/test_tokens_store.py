"""Token stores: what is written is read, and what is damaged is refused."""

from __future__ import annotations

import numpy as np
import pytest

from codetune.errors import ArtifactError
from codetune.models.tokens import INDEX, STREAMS, TokenStore, TokenWriter, token_type


@pytest.mark.parametrize(("vocab_size", "dtype"), [(8192, "uint16"), (65537, "uint32")])
def test_round_trip(tmp_path, vocab_size: int, dtype: str) -> None:
    with TokenWriter(tmp_path, vocab_size) as writer:
        writer.append([1, 2, vocab_size - 1], stream="ntp", document=0)
        writer.append(np.array([4, 5]), stream="fim", document=7, loss_from=1, weight=0.5)
        writer.append([], stream="ntp", document=8)
        writer.append([6, 7, 8], stream="fim", document=9, gap_from=2)
    store = TokenStore.open(tmp_path)
    ids, loss_from = store[1]
    assert (ids.tolist(), loss_from) == ([4, 5], 1)
    assert store[0][0].tolist() == [1, 2, vocab_size - 1]
    assert ids.dtype == dtype
    assert (len(store), store.tokens, store.vocab_size) == (4, 8, vocab_size)
    assert store.lengths.tolist() == [3, 2, 0, 3]
    assert store.gaps.tolist() == [0, 0, 0, 2]
    assert [STREAMS[n] for n in store.streams] == ["ntp", "fim", "ntp", "fim"]
    assert store.documents.tolist() == [0, 7, 8, 9]
    assert store.weights.tolist() == [1, 0.5, 1, 1]
    assert store.facts["tokens_by_stream"] == {"ntp": 3, "fim": 5}


def test_many_at_once(tmp_path) -> None:
    index = np.zeros(2, INDEX)
    index["length"], index["offset"], index["document"] = [2, 2], [0, 2], [0, 1]
    index["stream"], index["gap_from"] = [0, 1], [0, 1]
    with TokenWriter(tmp_path, 100) as writer:
        writer.append([9], stream="ntp", document=4)
        writer.extend(np.array([1, 2, 3, 4], token_type(100)).tobytes(), index, first=5)
    store = TokenStore.open(tmp_path)
    assert [store[n][0].tolist() for n in range(3)] == [[9], [1, 2], [3, 4]]
    assert store.documents.tolist() == [4, 5, 6]
    assert store.gaps.tolist() == [0, 0, 1]
    assert store.facts["tokens_by_stream"] == {"ntp": 3, "fim": 2}
    assert index["offset"].tolist() == [0, 2]


def test_an_empty_store(tmp_path) -> None:
    with TokenWriter(tmp_path, 10):
        pass
    assert len(TokenStore.open(tmp_path)) == 0


def test_a_broken_off_store_is_no_store(tmp_path) -> None:
    with pytest.raises(KeyError), TokenWriter(tmp_path, 10) as writer:
        writer.append([1], stream="ntp", document=0)
        raise KeyError
    with pytest.raises(ArtifactError, match="not a token store"):
        TokenStore.open(tmp_path)


def test_ids_outside_the_vocabulary_are_refused(tmp_path) -> None:
    with pytest.raises(OverflowError), TokenWriter(tmp_path, 10) as writer:
        writer.append([70000], stream="ntp", document=0)


@pytest.mark.parametrize("name", ["tokens.bin", "index.npy"])
def test_a_shortened_file_is_refused(tmp_path, name: str) -> None:
    with TokenWriter(tmp_path, 10) as writer:
        writer.append([1, 2, 3], stream="ntp", document=0)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-2])
    with pytest.raises(ArtifactError, match="not a token store"):
        TokenStore.open(tmp_path)


def test_a_gap_lies_inside_its_example(tmp_path) -> None:
    with pytest.raises(ValueError, match="gap"), TokenWriter(tmp_path, 10) as writer:
        writer.append([1, 2, 3], stream="fim", document=0, gap_from=3)


def test_a_store_of_an_earlier_version_is_refused(tmp_path) -> None:
    with TokenWriter(tmp_path, 10) as writer:
        writer.append([1, 2, 3], stream="ntp", document=0)
    names = [name for name in INDEX.names if name != "gap_from"]
    index = np.load(tmp_path / "index.npy")[names]
    np.save(tmp_path / "index.npy", index.astype([(name, INDEX[name]) for name in names]))
    with pytest.raises(ArtifactError, match="not a token store"):
        TokenStore.open(tmp_path)
