"""Examples that cannot be trained on: above a share of a stream, building stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from codetune.errors import DatasetError


def check_refused(name: str, refused: Mapping[str, int], asked: int, at_most: float) -> None:
    """See to it that no more than the share `at_most` of a stream's examples is refused.

    `refused` counts them by reason, among the `asked` ones.

    Raises:
        DatasetError: there are more.
    """
    total = sum(refused.values())
    if total <= at_most * asked:
        return
    reasons = "; ".join(f"{why} ({n})" for why, n in Counter(refused).most_common())
    raise DatasetError(
        f"{total} of {asked} examples of the stream '{name}' cannot be trained on: {reasons}.",
        advice="Raise dataset.window if the base reads more, choose another dataset.template, or "
        "allow it: dataset.refused_at_most.",
    )
