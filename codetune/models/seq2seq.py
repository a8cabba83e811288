"""Encoder-decoder models (T5 and its like): how a text becomes source and target.

One rule for training, scoring and serving: the source ends with the end token, and the decoder
begins with the token that its config names for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

# T5's positions are relative and have no end; it was pretrained on texts of this many tokens.
USUAL_WINDOW = 512


@dataclass(frozen=True)
class Marks:
    """The token ids that stand around sources and targets."""

    start: int  # before every target
    pad: int
    end: int | None  # after every source

    @classmethod
    def of(cls, config: Any) -> Marks:
        """Those of a model's config."""
        pad = int(config.pad_token_id or 0)
        start = config.decoder_start_token_id
        end = config.eos_token_id
        return cls(
            start=pad if start is None else int(start),
            pad=pad,
            end=end if isinstance(end, int) else None,
        )

    def source(self, ids: Sequence[int]) -> list[int]:
        """`ids` with the end token, once."""
        if self.end is None or (ids and ids[-1] == self.end):
            return list(ids)
        return [*ids, self.end]


def target_logits(
    model: nn.Module, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> Tensor:
    """(n, T, vocabulary): logits of each target's tokens, padded on the right.

    `sources` are without their end token.
    """
    import torch

    whole: Any = model
    marks, device = Marks.of(whole.config), next(model.parameters()).device

    def padded(rows: list[list[int]], fill: int) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=device)

    given = [marks.source(source) for source in sources]
    logits: Tensor = whole(
        input_ids=padded(given, marks.pad),
        attention_mask=padded([[1] * len(row) for row in given], 0),
        decoder_input_ids=padded([[marks.start, *target[:-1]] for target in targets], marks.pad),
        use_cache=False,
    ).logits
    return logits
