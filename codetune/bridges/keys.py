"""Moving keys between two nested dictionaries, and remembering which were used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Where our options leave them to the size of the base: as for one of a billion parameters.
USUAL_RANK = 16  # of LoRA
_USUAL_RATE, _USUAL_RATE_OF_FULL = 2e-4, 3e-5


class Keys:
    """A foreign configuration whose keys are taken one by one; the rest is what we ignore."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(flat(values))
        self._taken: set[str] = set()

    def take(self, *names: str) -> Any:
        """The value of the first of these dotted keys that is set, None where none is."""
        return self.take_with_name(*names)[1]

    def take_with_name(self, *names: str) -> tuple[str, Any]:
        """As `take`, with the key that is set; others beside it say something that is ignored."""
        name = next((name for name in names if self._values.get(name) is not None), names[0])
        self._taken.add(name)
        return name, self._values.get(name)

    def ignore(self, name: str) -> None:
        """Count a key that was taken as one of the rest: its value has no meaning here."""
        self._taken.discard(name)

    def has_section(self, name: str) -> bool:
        """Whether there is a mapping of this name, an empty one too."""
        return self._values.get(name) == {} or any(
            key.startswith(f"{name}.") for key in self._values
        )

    def rest(self) -> list[str]:
        """Keys that nobody took and that say something, in their order."""
        return [
            name
            for name, value in self._values.items()
            if name not in self._taken and value is not None and value not in ("", [], {})
        ]


def learning_rate(training: Mapping[str, Any]) -> float:
    """The peak learning rate of our options for training."""
    if training["learning_rate"]:
        return float(training["learning_rate"])
    usual = _USUAL_RATE_OF_FULL if training["method"] == "full" else _USUAL_RATE
    return float(f"{usual * training['learning_rate_scale']:.6g}")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists stay whole."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flat`, without the keys whose value is None."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree
