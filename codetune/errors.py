"""Every error codetune raises on purpose.

CodetuneError            what happened, and what to do about it
├── ConfigError          an option or a codetune.yaml that cannot be used
├── SourceError          a repository, folder or archive that cannot be read
│   └── UnsafeSourceError    … because reading it would be an attack
├── CorpusError          nothing usable is left after cleaning
├── DatasetError         the corpus cannot become training data
│   └── TeacherError         … because the model that words instructions cannot be used
├── ModelError           a base model, tokenizer or adapter that cannot be used
│   └── UnsafeModelError     … because loading it could run foreign code
├── TrainingError        training cannot start or cannot go on
│   └── WillNotFitError      the pre-flight says that memory or disk will not do
├── EvaluationError      held-out data that cannot be scored
├── ArtifactError        a stage's folder that is damaged or cannot be written
├── ExportError          a model that cannot be written out, or taken in by its target
│   └── ParityError          … because what was written does not answer as the model does
├── RegistryError        a model name that does not exist, or exists already
├── ServingError         the server or one of its engines cannot answer
│   ├── BadRequestError      … because the request cannot be answered as it was asked
│   ├── OverloadedError      … because too many requests are waiting
│   ├── DeadlineError        … in the time that was allowed
│   └── UnservableModelError … with this model: its folder is broken or does not fit its base
├── AccessError          somebody may not do what they asked for
│   ├── LoginError           … before they say who they are
│   ├── LoginLimitError      … after so many failed logins
│   ├── ForbiddenError       … with their role, or with this token
│   └── NotFoundError        … because it is not there, or not theirs: the answer is the same
├── QuotaError           somebody has as many jobs waiting as they may
├── StoreError           the database cannot be used
│   └── ConflictError        … because there is such a row already
└── MissingExtraError    an optional dependency is not installed

A boundary (git, the file system, a tokenizer file, torch) is crossed in one place, and
foreign errors are renamed there, once. The command line prints `str(error)` and exits with
code 2; the HTTP API maps the classes to statuses in one table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CodetuneError(Exception):
    """What happened (`message`), and the next step for the user (`advice`)."""

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message}\n  {self.advice}" if self.advice else self.message


class ConfigError(CodetuneError):
    """An option that does not exist or has a value that cannot be used."""


class SourceError(CodetuneError):
    """A repository, folder or archive that cannot be read."""


class UnsafeSourceError(SourceError):
    """A source that was refused because reading it could harm this machine."""


class CorpusError(CodetuneError):
    """The collected files hold nothing to train on."""


class DatasetError(CodetuneError):
    """The corpus cannot become training data with these options."""


class TeacherError(DatasetError):
    """The model that should word instructions refuses, fails, or is not configured."""


class ModelError(CodetuneError):
    """A base model, tokenizer or adapter that cannot be used."""


class UnsafeModelError(ModelError):
    """A model folder that was refused because loading it could run foreign code."""


class TrainingError(CodetuneError):
    """Training cannot start or cannot go on."""


class WillNotFitError(TrainingError):
    """The pre-flight found that memory, disk or time will not do."""


class EvaluationError(CodetuneError):
    """The held-out data cannot be scored."""


class ArtifactError(CodetuneError):
    """A stage's folder is damaged or cannot be written."""


class ExportError(CodetuneError):
    """A model cannot be exported, or whoever should take it in refuses it."""


class ParityError(ExportError):
    """What was written does not answer as the model does; it has been deleted again."""


class RegistryError(CodetuneError):
    """A model that does not exist in the registry, or exists already."""


class ServingError(CodetuneError):
    """The server or one of its engines cannot answer."""


class BadRequestError(ServingError):
    """A request that can never be answered as it was asked; `param` is the field to change."""

    def __init__(self, message: str, *, param: str | None = None, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.param = param


class OverloadedError(ServingError):
    """The queue is full; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: int = 1, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.retry_after = retry_after


class DeadlineError(ServingError):
    """The answer took longer than the server allows."""


class UnservableModelError(ServingError):
    """A registered model that cannot be served; the message holds no paths of this machine."""


class AccessError(CodetuneError):
    """An actor may not do what they asked for."""


class LoginError(AccessError):
    """Nobody is known by these credentials, or there are none."""


class LoginLimitError(AccessError):
    """Too many logins have failed; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: int = 1, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.retry_after = retry_after


class ForbiddenError(AccessError):
    """The actor may know that it is there, but not do this with it."""


class NotFoundError(AccessError):
    """It is not there, or it is somebody else's: nobody learns which."""


class QuotaError(CodetuneError):
    """One more job than its owner may have; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: int = 60, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.retry_after = retry_after


class StoreError(CodetuneError):
    """The database cannot be opened, read or written; the message holds no password."""


class ConflictError(StoreError):
    """What should be made is there already, or something else still needs what should go."""


class MissingExtraError(CodetuneError):
    """An optional dependency is missing; the message holds the pip line."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an optional part of codetune that is not installed.",
            advice=f'pip install "codetune[{extra}]"',
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the known names when none is close; '' when there are none."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(names)}." if names else ""
