"""The base of every station's typed options.

An option lives in exactly one place: a field of an `Options` class, with its default, its
limits and its documentation. `codetune.yaml`, the command line and the HTTP API all read it
from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic import Field as option
from pydantic.fields import FieldInfo

from codetune.errors import ConfigError, nearest

__all__ = ["Options", "option"]


class Options(BaseModel):
    """Frozen, typed, documented options; an unknown key is refused, and a number without end."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_sections(cls, values: Any) -> Any:
        """A section whose keys are all commented out is null in YAML: the same as not there."""
        if not isinstance(values, Mapping):
            return values
        return {k: v for k, v in values.items() if v is not None or not _is_section(cls, k)}

    @classmethod
    def load(cls, values: Mapping[str, Any], where: str) -> Self:
        """Check `values` read from `where` (a file name, "the command line").

        Raises:
            ConfigError: naming the place, the key, the reason and the nearest known key.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _explain(cls, error, where) from error


def _explain(cls: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    """The first problem of a pydantic error in the user's words."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _fields_at(cls, path[:-1])
        return ConfigError(f"{where}: unknown option '{key}'.", advice=nearest(path[-1], known))
    shown = repr(first.get("input"))
    message = first["msg"].removeprefix("Value error, ")
    if not path:  # two options that do not fit together
        return ConfigError(f"{where}: {message}.")
    return ConfigError(f"{where}: option '{key}' cannot be {shown[:80]}: {message}.")


def _is_section(cls: type[BaseModel], name: str) -> bool:
    field = cls.model_fields.get(name)
    annotation = field.annotation if field else None
    return isinstance(annotation, type) and issubclass(annotation, Options)


def _fields_at(cls: type[BaseModel], path: list[str]) -> Mapping[str, FieldInfo]:
    for part in path:
        annotation = cls.model_fields[part].annotation if part in cls.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return {}
        cls = annotation
    return cls.model_fields
