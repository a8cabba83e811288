"""What both sides are asked, and that each figure is made of the right answers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from codetune.distance import edit_similarity, normalised
from codetune.evaluation import forgetting
from codetune.evaluation.completion import Answers, Exam, answer, answer_gaps, prepare
from codetune.evaluation.config import EvaluationOptions
from codetune.evaluation.likelihood import Passage, score_passages
from codetune.evaluation.samples import Gap
from codetune.evaluation.scorecard import comparisons
from codetune.models.load import BaseModel, load_model
from codetune.models.prompts import GapEdges, Renderer, until_gap_end
from codetune.progress import Progress

OPTIONS = EvaluationOptions(bootstrap=200)


def passage(path: str, text: str) -> Passage:
    return Passage(path, path, "r", path, "", text)


def gap(number: int, middle: str) -> Gap:
    path = f"file{number}.py"
    prefix, suffix = f"def f{number}(first):\n    return ", f"\n\nprint(f{number}(1))\n"
    return Gap(str(number), path, "r", path, "python", "file", "line", prefix, suffix, middle)


GAPS = [gap(0, "zebra_quagga"), gap(1, "first + zebra_quagga")]
PASSAGES = [passage("a.py", "x = 1\ny = 2\n"), passage("b.py", "import os\n")]
GENERAL = [passage("g.py", "for line in file:\n    print(line, end='')\n")]


@pytest.fixture(scope="module")
def exam(renderer: Renderer) -> Exam:
    return prepare(renderer, PASSAGES, GENERAL, GAPS, window=128, new_tokens=12)


def test_a_prompt_holds_what_stands_around_the_gap_and_nothing_of_it(
    exam: Exam, renderer: Renderer
) -> None:
    for asked, prompt in zip(exam.gaps, exam.prompts, strict=True):
        expected = renderer.fim_prompt(asked.prefix, asked.suffix, repo="r", path=asked.path)
        assert prompt.tokens == expected
        assert "zebra" not in renderer.decode(prompt.tokens)


def test_the_longest_answer_says_little_of_the_true_one(renderer: Renderer) -> None:
    """A right answer fits, and a model that goes on is not cut where the truth ends."""
    exam = prepare(renderer, PASSAGES, GENERAL, GAPS, window=256, new_tokens=50)
    for asked, prompt in zip(exam.gaps, exam.prompts, strict=True):
        assert len(renderer.plain(asked.middle)) + 8 <= prompt.limit <= 50
    short = prepare(renderer, PASSAGES, GENERAL, GAPS, window=128, new_tokens=12)
    assert [prompt.limit for prompt in short.prompts] == [12, 12]


def test_each_answer_belongs_to_its_question(
    exam: Exam, base: BaseModel, renderer: Renderer
) -> None:
    model = load_model(base.path)
    answers = answer(model, renderer, exam, "base", Progress())

    def bits(passages: list[Passage]) -> list[float]:
        return score_passages(
            model, renderer, passages, window=128, progress=Progress(), label="score"
        )

    assert answers.bits == pytest.approx(bits(PASSAGES), rel=1e-4)
    assert answers.general_bits == pytest.approx(bits(GENERAL), rel=1e-4)
    for number, asked in enumerate(GAPS):
        truth, text = normalised(asked.middle), normalised(answers.texts[number])
        assert answers.similarity[number] == edit_similarity(text, truth)
        assert answers.exact[number] == (text == truth)


def test_an_answer_ends_where_the_server_would_end_it(
    exam: Exam, renderer: Renderer, base: BaseModel
) -> None:
    model = load_model(base.path, dtype=torch.float32)

    def texts(*edges: GapEdges) -> list[str]:
        return answer_gaps(model, renderer, exam.prompts, edges, "base", Progress())

    whole = texts(GapEdges(), GapEdges())
    edges = [GapEdges(bracket=text[len(text) // 2]) for text in whole]
    shorter = texts(*edges)
    assert shorter != whole
    for text, edge, found in zip(whole, edges, shorter, strict=True):
        assert found == until_gap_end(text, edge, unfinished=True)


def test_bits_are_divided_by_bytes_not_by_characters() -> None:
    exam = Exam([passage("a.py", "größer ✓")], [passage("g.py", "naïve")], [], [], [], 128)
    base = Answers(bits=[24.0], general_bits=[12.0])
    tuned = Answers(bits=[12.0], general_bits=[18.0])
    found = comparisons(exam, base, tuned, OPTIONS)
    text, general = found["bits_per_byte"], found["general_bits_per_byte"]
    assert text is not None
    assert general is not None
    assert (text.base.value, text.tuned.value) == (2.0, 1.0)  # 12 bytes, 8 characters
    assert (general.base.value, general.tuned.value) == (2.0, 3.0)  # 6 bytes, 5 characters
    assert found["fim_exact_match"] is None


def test_one_long_file_is_not_the_whole_general_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"repo": "pip", "path": f"m{n}.py", "text": "x = 1\n" * 2000} for n in range(3)]
    file = tmp_path / "evaluation.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    monkeypatch.setattr(forgetting, "GENERAL", file)
    lengths = [len(p.text) for p in forgetting.general_passages(10_000)]
    assert lengths == [4096, 4096, 10_000 - 2 * 4096]
