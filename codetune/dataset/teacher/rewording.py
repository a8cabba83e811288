"""Instructions worded by a teacher: in batches, checked, kept on disk, and counted.

Only the question is worded anew. The answer stays the repository's text, and a question that the
teacher could not word stays as it was: its failure is counted, nothing takes its place.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codetune.artifacts import digest_of, write_json
from codetune.dataset.instruct.pairs import Pair
from codetune.dataset.teacher.client import Client, FailedRequest, Usage
from codetune.dataset.teacher.config import TeacherOptions
from codetune.errors import TeacherError
from codetune.progress import Progress

VERSION = 1  # raised when the request says something else, so that no old answer is taken
_MOST_SHOWN = 1500  # characters of an input or answer that the teacher sees
_CHARACTERS_A_TOKEN = 3.6  # of code and English, for the estimate
_TOKENS_WRITTEN = 45  # for one instruction
_MOST_FAILED = 5  # batches in a row: then the endpoint is no teacher
_SYSTEM = (
    "You write the questions of a training set for a coding assistant. For every item you get a "
    "question, the code or text it is about, and its answer, which is final. Word the question as "
    "a developer of this project would: clear, specific, and such that this answer is the right "
    "one. Keep every name in backquotes exactly as it is. Do not answer it and do not quote the "
    "answer. Reply with JSON and nothing else: "
    '{"items": [{"id": 1, "instruction": "…"}, …]}, one entry for every item.'
)
_FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n\s*```\s*\Z", re.DOTALL)
_NAMES = re.compile(r"`([^`]+)`")


class _Item(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    id: int
    instruction: str = Field(min_length=10, max_length=1000)


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    items: list[_Item]


@dataclass
class Outcome:
    """What the teacher did."""

    reworded: int = 0
    from_cache: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # instructions, by reason
    requests: int = 0
    tokens_read: int = 0
    tokens_written: int = 0

    def summary(self) -> dict[str, object]:
        """The figures for the dataset's summary."""
        return vars(self) | {"failed": dict(self.failed.most_common())}


class Teacher:
    """Words instructions with the help of one endpoint."""

    def __init__(self, options: TeacherOptions, cache: Path, progress: Progress) -> None:
        self._options, self._cache, self._progress = options, cache, progress
        self.outcome = Outcome()

    def reword(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs in their order, up to `most` of them with the teacher's instruction.

        An instruction that was worded before is not asked for again.

        Raises:
            TeacherError: the endpoint refuses, fails several times in a row or each time, or
                does not answer a request however often it is asked. What it has worded is kept,
                and a dataset that later runs would take as it is holds no passing failure.
        """
        order = sorted(range(len(pairs)), key=lambda number: pairs[number].digest)
        wanted = order[: self._options.most]  # of every kind, and the same ones in each run
        done = {number: known for number in wanted if (known := self._known(pairs[number]))}
        self.outcome.from_cache = len(done)
        missing = [number for number in wanted if number not in done]
        size = self._options.batch
        batches = [
            [(number, pairs[number]) for number in missing[at : at + size]]
            for at in range(0, len(missing), size)
        ]
        if batches:
            self._announce(batches)
            done |= self._ask_all(batches)
        self.outcome.reworded = len(done)
        name = self._options.model
        return [
            replace(pair, instruction=done[number], teacher=name) if number in done else pair
            for number, pair in enumerate(pairs)
        ]

    def _announce(self, batches: Sequence[Sequence[tuple[int, Pair]]]) -> None:
        """Say before the start where text goes, how much of it, and what it may cost."""
        characters = sum(len(message["content"]) for b in batches for message in _messages(b))
        read = round(characters / _CHARACTERS_A_TOKEN)
        written = _TOKENS_WRITTEN * sum(map(len, batches))
        options = self._options
        cost = (read * options.price_input + written * options.price_output) / 1e6
        where = "on this machine" if options.is_local else "NOT this machine: text leaves it"
        priced = f", about {cost:.2f} at the given prices" if cost else ""
        self._progress.say(
            f"Teacher {options.model} at {options.host} ({where}): {len(batches)} requests, about "
            f"{read:,} tokens to read and {written:,} to write{priced}."
        )

    def _ask_all(self, batches: Sequence[list[tuple[int, Pair]]]) -> dict[int, str]:
        done: dict[int, str] = {}
        in_a_row = 0
        unanswered: Counter[str] = Counter()
        client = Client(self._options)
        with (
            ThreadPoolExecutor(self._options.parallel) as pool,
            self._progress.task("Asking the teacher", total=len(batches), unit="requests") as task,
        ):
            try:
                for batch, found in _in_order(pool, client, batches, 2 * self._options.parallel):
                    task.advance()
                    self.outcome.requests += 1
                    if isinstance(found, FailedRequest):
                        self.outcome.failed[found.reason] += len(batch)
                        if found.passing:
                            unanswered[found.reason] += len(batch)
                        in_a_row += 1
                        if in_a_row == _MOST_FAILED:
                            raise self._gave_up(
                                f"failed {in_a_row} times in a row; the last time: {found.reason}"
                            )
                        continue
                    in_a_row = 0
                    worded, usage = found
                    self.outcome.tokens_read += usage.read
                    self.outcome.tokens_written += usage.written
                    for number, pair in batch:
                        done[number] = worded[number]
                        self._keep(pair, worded[number])
            finally:
                client.close()
                pool.shutdown(wait=False, cancel_futures=True)
        failed = self.outcome.failed
        if failed and not done and not self.outcome.from_cache:
            raise self._gave_up(f"worded nothing: {_counted(failed)}")
        if unanswered:
            raise self._gave_up(f"left instructions without an answer: {_counted(unanswered)}")
        if failed:
            self._progress.say(
                "Instructions that the teacher could not word, which stay as they were: "
                f"{_counted(failed)}."
            )
        return done

    def _gave_up(self, what: str) -> TeacherError:
        return TeacherError(
            f"The teacher at {self._options.url} {what}.",
            advice="What it has worded so far is kept: run again to go on, or leave "
            "dataset.instructions.teacher.url out.",
        )

    def _place(self, pair: Pair) -> Path:
        asked = [VERSION, self._options.url, self._options.model, self._options.temperature]
        name = digest_of([*asked, pair.instruction, pair.input, pair.output])
        return self._cache / name[:2] / f"{name}.json"

    def _known(self, pair: Pair) -> str | None:
        """The instruction that an earlier run got for the pair; a damaged file counts as none."""
        try:
            kept = json.loads(self._place(pair).read_text(encoding="utf-8"))
            instruction = kept["instruction"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return instruction if isinstance(instruction, str) and instruction else None

    def _keep(self, pair: Pair, instruction: str) -> None:
        place = self._place(pair)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"instruction": instruction})


def _counted(failed: Counter[str]) -> str:
    return ", ".join(f"{reason} ({n})" for reason, n in failed.most_common())


Worded = tuple[dict[int, str], Usage]


def _in_order(
    pool: ThreadPoolExecutor,
    client: Client,
    batches: Iterable[list[tuple[int, Pair]]],
    ahead: int,
) -> Iterator[tuple[list[tuple[int, Pair]], Worded | FailedRequest]]:
    """Each batch with its answer, in order; up to `ahead` of them are under way."""
    waiting: deque[tuple[list[tuple[int, Pair]], Future[Worded | FailedRequest]]] = deque()
    for batch in batches:
        waiting.append((batch, pool.submit(_ask, client, batch)))
        if len(waiting) >= ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def _ask(client: Client, batch: list[tuple[int, Pair]]) -> Worded | FailedRequest:
    try:
        return client.ask(_messages(batch), lambda text: _read(text, batch))
    except FailedRequest as failure:
        return failure


def _messages(batch: Sequence[tuple[int, Pair]]) -> list[dict[str, str]]:
    items = [
        {
            "id": number + 1,
            "kind": pair.kind,
            "question": pair.instruction,
            "about": _shortened(pair.input),
            "answer": _shortened(pair.output),
        }
        for number, (_, pair) in enumerate(batch)
    ]
    asked = json.dumps({"items": items}, ensure_ascii=False, indent=1)
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}]


def _read(text: str, batch: Sequence[tuple[int, Pair]]) -> dict[int, str]:
    """The instructions of a reply by the pairs' numbers.

    Raises:
        FailedRequest: it is not JSON of the right form, or breaks one of the rules.
    """
    fenced = _FENCED.match(text)
    try:
        reply = _Reply.model_validate_json(fenced[1] if fenced else text)
    except ValidationError as error:
        kind = error.errors(include_url=False)[0]["type"]
        raise FailedRequest("not JSON" if kind == "json_invalid" else "wrong fields") from error
    found = {item.id: item.instruction.strip() for item in reply.items}
    if len(found) != len(reply.items) or set(found) != set(range(1, len(batch) + 1)):
        raise FailedRequest("other items than asked for")
    worded: dict[int, str] = {}
    for place, (number, pair) in enumerate(batch, start=1):
        new = found[place]
        if not set(_NAMES.findall(pair.instruction.partition("\n")[0])) <= set(_NAMES.findall(new)):
            raise FailedRequest("names left out")
        if pair.output.strip() in new:
            raise FailedRequest("gives the answer away")
        worded[number] = new
    return worded


def _shortened(text: str) -> str:
    if len(text) <= _MOST_SHOWN:
        return text
    half = _MOST_SHOWN // 2
    return f"{text[:half]}\n…\n{text[-half:]}"
