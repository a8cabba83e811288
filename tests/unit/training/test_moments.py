"""The change that does on the team's inputs what was learned, and on general code's nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from codetune.training.moments import Moments, affordable, second_moments

WIDE, OUT = 6, 4


def inputs(seed: int) -> Tensor:
    """(32, 6): rows that are long in some directions and short in others."""
    dice = torch.Generator().manual_seed(seed)
    return torch.randn(32, WIDE, generator=dice) @ torch.randn(WIDE, WIDE, generator=dice)


@pytest.fixture
def seen() -> tuple[Tensor, Tensor]:
    return inputs(1), inputs(2)


def moments(seen: tuple[Tensor, Tensor]) -> Moments:
    own, general = seen
    return Moments(own.T @ own / len(own), general.T @ general / len(general))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_no_other_change_does_better(seen: tuple[Tensor, Tensor], share: float) -> None:
    own, general = seen
    learned = torch.randn(OUT, WIDE, generator=torch.Generator().manual_seed(3))
    bent = moments(seen).bend(learned, share).requires_grad_()
    kept = (own @ (bent - learned).T).square().sum() / len(own)
    lost = (general @ bent.T).square().sum() / len(general)
    (slope,) = torch.autograd.grad(share * kept + (1 - share) * lost, bent)
    assert slope.abs().max() < 1e-3 * lost.detach()


def test_from_nothing_to_all(seen: tuple[Tensor, Tensor]) -> None:
    learned = torch.randn(OUT, WIDE, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(moments(seen).bend(learned, 1.0), learned, atol=1e-4)
    assert torch.equal(moments(seen).bend(learned, 0.0), torch.zeros(OUT, WIDE))


def test_where_both_look_alike_it_is_a_share(seen: tuple[Tensor, Tensor]) -> None:
    learned = torch.randn(OUT, WIDE, generator=torch.Generator().manual_seed(3))
    alike = moments((seen[0], seen[0]))
    assert torch.allclose(alike.bend(learned, 0.3), 0.3 * learned, atol=1e-4)


class Two(nn.Module):
    """Two layers that read the same, one that reads what they write, and one that rests."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(WIDE, OUT), nn.Linear(WIDE, OUT)
        self.after, self.idle = nn.Linear(OUT, 2), nn.Linear(OUT, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.left(x) + self.right(x))
        return out


def test_moments_are_of_all_that_is_read(seen: tuple[Tensor, Tensor]) -> None:
    model = Two()
    layers = dict(model.named_children())

    def run() -> None:
        for x in seen:  # (1, T, width), as a model reads it
            model(x[None])

    found = second_moments(layers, run)
    rows = torch.cat(seen)
    whole = rows.T @ rows / len(rows)
    spread = whole.diagonal()
    drawn = 0.9 * whole + torch.diag(0.1 * spread + 1e-4 * spread.mean())
    assert torch.allclose(found["left"], drawn, rtol=1e-4)
    assert found["right"] is found["left"]  # kept once
    assert found["after"].shape == (OUT, OUT) and "idle" not in found
    model(rows)
    assert not any(layer._forward_pre_hooks for layer in layers.values())


def test_layers_go_without_from_a_width_on() -> None:
    layers = {str(number): nn.Linear(width, 2) for number, width in enumerate((30, 10, 20, 20))}
    most = 2 * 4 * (10**2 + 2 * 20**2)
    assert list(affordable(layers, most)) == ["1", "2", "3"]
    assert list(affordable(layers, most - 1)) == ["1"]


def test_bending_is_done_where_the_moments_are() -> None:
    """The change is in main memory, what a model on a GPU has seen is on the GPU."""
    with FakeTensorMode():
        seen = torch.empty(WIDE, WIDE, device="cuda")
        bent = Moments(seen, seen).bend(torch.empty(OUT, WIDE), 0.6)
    assert (bent.device.type, bent.shape) == ("cpu", (OUT, WIDE))
