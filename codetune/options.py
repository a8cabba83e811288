"""The base of every station's typed options.

An option lives in exactly one place: a field of an `Options` class, with its default, its
limits and its documentation. `codetune.yaml`, the command line and the HTTP API all read it
from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
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

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """To Python true is 1, and so it is to pydantic."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = _kinds(annotation)
        given = value if isinstance(value, list | tuple) else [value]
        is_number = not kinds.isdisjoint({int, float}) and bool not in kinds
        if is_number and any(isinstance(one, bool) for one in given):
            raise ValueError("Input should be a number, not true or false")
        return value

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
    first, *others = error.errors()
    path = _place(cls, first["loc"])
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _fields_at(cls, path[:-1])
        return ConfigError(f"{where}: unknown option '{key}'.", advice=nearest(path[-1], known))
    shown = repr(first.get("input"))
    message = first["msg"].removeprefix("Value error, ")
    for other in others:  # another kind that the same option may have
        if len(first["loc"]) > len(path) and _place(cls, other["loc"]) == path:
            message += f", or {other['msg'][:1].lower()}{other['msg'][1:]}"
    if not path:  # two options that do not fit together
        return ConfigError(f"{where}: {message}.")
    advice = ""
    if first["type"] == "tuple_type" and isinstance(first["input"], str):
        advice = f"Write a list: [{first['input']}]"
    return ConfigError(f"{where}: option '{key}' cannot be {shown[:80]}: {message}.", advice=advice)


def _place(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The dotted key of a problem, without pydantic's own name of the kind that was tried last.

    An option that may be of several kinds (`bool | Literal["auto"]`) has a problem for each.
    """
    path = [str(part) for part in loc]
    field = _fields_at(cls, path[:-2]).get(path[-2]) if len(path) > 1 else None
    several = field is not None and get_origin(field.annotation) in (Union, UnionType)
    kinds = set(get_args(field.annotation)) - {NoneType} if field and several else set()
    return path[:-1] if len(kinds) > 1 else path


def _kinds(annotation: Any) -> set[Any]:
    """The types of an option's value, or of the elements where it is a list."""
    inner = get_args(annotation)
    return set().union(*map(_kinds, inner)) if inner else {annotation}


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
