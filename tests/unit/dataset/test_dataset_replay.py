"""General code goes along with the team's, counted apart and checked for leaks as the rest."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from codetune.artifacts import Artifact
from codetune.dataset.build import build
from codetune.dataset.config import DatasetOptions
from codetune.dataset.replay import replay_documents
from codetune.models.tokens import TokenStore
from codetune.progress import Progress
from tests.unit.dataset.corpora import REPOSITORY, code, corpus, document
from tests.unit.models.tiny_families import write_base


def made(folder: Path, cleaned: Artifact, share: float) -> Artifact:
    base = write_base(folder / "base", "qwen")
    options = DatasetOptions(replay_share=share)
    return build(cleaned, REPOSITORY, base, options, folder / "data", Progress())


@pytest.fixture
def cleaned(tmp_path: Path) -> Artifact:
    documents = [document(f"src/m{n}.py", code(n, 40)) for n in range(30)]
    return corpus(tmp_path / "corpus", documents)


def test_replay_holds_its_share_and_is_counted_apart(tmp_path: Path, cleaned: Artifact) -> None:
    with_replay, without = made(tmp_path, cleaned, 0.3), made(tmp_path, cleaned, 0.0)
    own, replay = with_replay.summary["bytes"], with_replay.summary["replay"]["bytes"]
    assert own == without.summary["bytes"]
    assert with_replay.summary["examples"] == without.summary["examples"]
    assert 0.25 < replay / (own + replay) < 0.5  # whole files: up to one more than wanted
    assert without.summary["replay"] == {"documents": 0, "bytes": 0}
    streams = with_replay.summary["tokens_by_stream"]
    assert sum(streams.values()) == with_replay.summary["tokens"]
    assert len(TokenStore.open(with_replay / "tokens")) > len(TokenStore.open(without / "tokens"))
    examples = pq.read_table(with_replay / "examples.parquet", columns=["stream"])
    store = TokenStore.open(with_replay / "tokens")
    names = [store.stream_names[n] for n in store.streams]
    assert names == examples["stream"].to_pylist()
    sizes = sum(int(store.lengths[n]) for n, name in enumerate(names) if name == "replay")
    assert sizes == streams["replay"] > 0
    repos = set(pq.read_table(with_replay / "examples.parquet")["repo"].to_pylist())
    assert len(repos) > 1
    assert with_replay.summary["leaked"] == 0


def test_held_out_code_that_stands_in_the_replay_set_is_removed(
    tmp_path: Path,
) -> None:
    general = replay_documents(10**9, seed=0)
    copies = [document(f"copied/{n}.py", row.text) for n, row in enumerate(general[:30])]
    own = [document(f"src/m{n}.py", code(n, 40)) for n in range(60)]
    artifact = made(tmp_path, corpus(tmp_path / "copies", [*own, *copies]), 0.9)
    assert artifact.summary["leaked"] == 0
    assert artifact.summary["leaked_removed"] > 0
