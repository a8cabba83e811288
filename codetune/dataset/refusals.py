"""Examples that cannot be trained on: above a share of a stream, building stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from codetune.errors import DatasetError

SHOWN = 5  # refused examples that an error names
_HELP = {  # by what a reason tells
    "window": "raise dataset.window if the base reads more",
    "template": "choose another dataset.template",
    "": "mend these rows",
}


def check_refused(
    name: str,
    refused: Mapping[str, int],
    asked: int,
    at_most: float,
    first: Sequence[str] = (),
) -> None:
    """See to it that no more than the share `at_most` of a stream's examples is refused.

    `refused` counts them by reason, among the `asked` ones; `first` says where some of them stand.

    Raises:
        DatasetError: there are more.
    """
    total = sum(refused.values())
    if total <= at_most * asked:
        return
    reasons = "; ".join(f"{why} ({n})" for why, n in Counter(refused).most_common())
    shown = "".join(f"\n  {one}" for one in first)
    more = f"\n  … {total - len(first)} more" if shown and total > len(first) else ""
    raise DatasetError(
        f"{total} of {asked} examples of the stream '{name}' cannot be trained on: "
        f"{reasons}.{shown}{more}",
        advice=_advice(refused),
    )


def _advice(reasons: Mapping[str, int]) -> str:
    told = [next(word for word in _HELP if word in why) for why in reasons]
    helps = ", ".join(text for word, text in _HELP.items() if word in told)
    return f"{helps[0].upper()}{helps[1:]}, or allow it: dataset.refused_at_most."
