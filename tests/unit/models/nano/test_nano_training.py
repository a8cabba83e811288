"""Rows, isolation, and a run that goes on exactly where it stopped."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from codetune.models.nano.network import Lengths, Network
from codetune.models.nano.optimiser import orthogonalised
from codetune.models.nano.publish import publish
from codetune.models.nano.recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe
from codetune.models.nano.rows import Renderer, Shard, pack
from codetune.models.nano.story import default_packages
from codetune.models.nano.tokenizer import load_plain
from codetune.models.nano.train import Budget, Run, Workplace
from codetune.models.nano.workers import Here, Row, Workers
from codetune.progress import Progress

TOKENIZER = default_packages().parent / "weights" / "tokenizer.json"
TINY = ModelRecipe(width=32, layers=2, inner=64, heads=2, kv_heads=1)
SOURCE = "def area(width, height):\n    total = width * height\n    return total\n\n\n"


@pytest.fixture(autouse=True)
def one_thread():
    # Tiny operations on many threads mostly wait for each other on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_recipe(**train) -> Recipe:
    options = {
        "warmup_tokens": 256,
        "short_window": 128,
        "window": 128,
        "long_window": 128,
        "rows_per_step": ((0, 2),),
        **train,
    }
    data = DataRecipe(row=512, total_bytes=60_000, shard_bytes=8_000)
    return Recipe(model=TINY, data=data, train=TrainRecipe(**options))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    home = tmp_path_factory.mktemp("nano")
    dice = random.Random(0)
    rows = []
    for number in range(60):
        names = [f"name_{dice.randrange(50)}" for _ in range(30)]
        text = "".join(SOURCE.replace("area", name) for name in names)
        rows.append({"repo": "demo", "path": f"m{number}.py", "language": "python", "text": text})
    for name, part in (("documents", rows[:50]), ("held_out", rows[50:])):
        pq.write_table(pa.Table.from_pylist(part), home / f"{name}.parquet")
    return Workplace(
        home, home / "documents.parquet", home / "held_out.parquet", TOKENIZER, home / "run"
    )


def at(place: Workplace, name: str) -> Workplace:
    return Workplace(
        place.home, place.documents, place.held_out, place.tokenizer, place.home / name
    )


def masters(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.optimiser.masters.items()}


def test_an_interrupted_run_reaches_the_same_weights(place):
    budget = Budget(tokens=6 * 1024)
    whole = Run(tiny_recipe(), at(place, "whole"), compiled=False)
    whole.train(budget, Progress())

    first = Run(tiny_recipe(), at(place, "parts"), compiled=False)
    step, done = first._step, []

    def stop_after_three(rows):
        done.append(1)
        first.stopping = len(done) == 3
        return step(rows)

    first._step = stop_after_three
    first.train(budget, Progress())
    assert not first.finished
    second = Run(tiny_recipe(), at(place, "parts"), compiled=False)
    assert second.position.tokens == first.position.tokens > 0
    second.train(budget, Progress())
    assert second.finished
    for name, tensor in masters(whole).items():
        assert torch.equal(tensor, masters(second)[name]), name


def test_a_finished_run_goes_on_only_when_told(place):
    run = Run(tiny_recipe(), at(place, "longer"), compiled=False)
    run.train(Budget(tokens=3 * 1024), Progress())
    end = run.position.tokens
    run.train(Budget(tokens=6 * 1024), Progress())
    assert run.position.tokens == end
    shard = run.position.shard
    run.go_on()
    assert run.position.shard == shard + 1  # what was read is not read again
    run.train(Budget(tokens=6 * 1024), Progress())
    assert run.finished
    assert run.position.tokens >= 6 * 1024
    entries = [json.loads(x) for x in (run.place.run / "metrics.jsonl").read_text().splitlines()]
    assert [entry["continued"] for entry in entries if "continued" in entry] == [end]


def test_training_learns_and_publishes(place, tmp_path):
    run = Run(tiny_recipe(), at(place, "learns"), compiled=False)
    before = run.bits_per_byte()
    run.train(Budget(tokens=20_000), Progress())
    entries = [json.loads(x) for x in (run.place.run / "metrics.jsonl").read_text().splitlines()]
    assert entries[-1]["finished"]
    assert entries[-1]["bits_per_byte"] < before * 0.8
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tokenizer" / name).write_bytes((TOKENIZER.parent / name).read_bytes())
    publish(run.place.checkpoint, tmp_path / "tokenizer", tmp_path / "out")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.hidden_size == 32
    assert model.dtype == torch.bfloat16


def test_several_processes_compute_the_same_gradients():
    torch.manual_seed(0)
    network = Network(TINY)
    network.initialise(1)
    network.to(torch.bfloat16)
    rows = [
        Row(np.random.default_rng(n).integers(0, 8000, 128).astype("uint16"), [100, 28], 128)
        for n in range(3)
    ]
    names = [name for name, _ in network.named_parameters()]
    sums = [{n: torch.zeros_like(network.get_parameter(n)).float() for n in names} for _ in "ab"]
    here = Here(network, compiled=False)
    loss = here.gradients(rows, 300.0, sums[0])
    workers = Workers(TINY, network, 2, compiled=False)
    try:
        assert workers.gradients(rows, 300.0, sums[1]) == pytest.approx(loss, rel=1e-3)
    finally:
        workers.close()
    for name in names:
        torch.testing.assert_close(sums[0][name], sums[1][name], atol=2e-3, rtol=2e-2)


def test_a_document_does_not_see_its_neighbours():
    network = Network(TINY)
    network.initialise(2)
    torch.nn.init.normal_(network.model.layers[0].self_attn.o_proj.weight, std=0.2)
    first, second = torch.randint(0, 8000, (20,)), torch.randint(0, 8000, (30,))
    positions = torch.cat([torch.arange(20), torch.arange(30)])
    with torch.no_grad():
        together = network(torch.cat([first, second]), positions, Lengths([20, 30]))
        other = network(torch.cat([first.flip(0), second]), positions, Lengths([20, 30]))
        alone = network(second, torch.arange(30), Lengths([30]))
    assert torch.equal(together[20:], other[20:])
    torch.testing.assert_close(together[20:], alone)
    assert not torch.equal(together[:20], other[:20])


@pytest.fixture(scope="module")
def renderer():
    return Renderer(load_plain(TOKENIZER), DataRecipe(fim_rate=1.0))


def test_holes_are_rendered_so_that_the_file_comes_back(renderer):
    dice = random.Random(4)
    text = SOURCE * 6
    kinds = set()
    for _ in range(60):
        (ids,) = renderer.chunks("repo", "a/b.py", "python", text, 2048, dice)[:1]
        assert ids[-1] == renderer.end
        prefix, suffix = ids.index(renderer.prefix), ids.index(renderer.suffix)
        start, second = sorted((prefix, suffix))
        middle = ids.index(renderer.middle)
        one, two = (
            renderer.tokenizer.decode(part)
            for part in (ids[start + 1 : second], ids[second + 1 : middle])
        )
        before, after = (one, two) if prefix < suffix else (two, one)
        filled = renderer.tokenizer.decode(ids[middle + 1 : -1])
        assert text.startswith(before + filled + after)
        kinds.add("psm" if prefix < suffix else "spm")
        header = renderer.tokenizer.decode(ids[:start], skip_special_tokens=False)
        assert header in (
            "",
            "<|file_sep|>a/b.py\n",
            "<|repo_name|>repo\n<|file_sep|>a/b.py\n",
        )
    assert kinds == {"psm", "spm"}


def test_only_the_end_of_a_file_ends_a_document():
    renderer = Renderer(load_plain(TOKENIZER), DataRecipe(fim_rate=0.0))
    chunks = renderer.chunks("r", "p.py", "python", SOURCE * 40, 128, random.Random(1))
    assert len(chunks) > 3
    assert all(renderer.end not in chunk for chunk in chunks[:-1])
    assert all(len(chunk) <= 128 for chunk in chunks)


def test_special_tokens_in_a_file_stay_text(renderer):
    text = 'END = "<|endoftext|><|fim_middle|>"\n' * 8
    ids = renderer.encode(text)
    assert max(ids) < renderer.end


def test_packing_keeps_every_chunk_whole(tmp_path):
    dice = random.Random(5)
    chunks = [[number + 1] * dice.randrange(20, 200) for number in range(100)]
    shard = pack(chunks, 512, pad=0)
    shard.save(tmp_path / "s.npz")
    shard = Shard.load(tmp_path / "s.npz")
    seen = []
    for tokens, lengths, real in zip(shard.tokens, shard.lengths, shard.real, strict=True):
        assert sum(lengths) == 512
        at = 0
        for length in lengths:
            if at < real:
                assert len(set(tokens[at : at + length].tolist())) == 1
                seen.append((int(tokens[at]), length))
            at += length
    assert len(seen) >= 90  # the last, mostly empty rows are not used
    assert set(seen) <= {(chunk[0], len(chunk)) for chunk in chunks}
    assert sum(shard.real) / shard.tokens.size > 0.93


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(2, 64, 32)))
    assert values.min() > 0.4
    assert values.max() < 1.4
