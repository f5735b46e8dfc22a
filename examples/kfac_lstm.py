"""K-FAC for an LSTM that hedges an option: `python examples/kfac_lstm.py`.

An LSTM sees the price of a stock day by day and says how much of it to hold; with the premium,
gains and losses should add up to the payoff of a call option. The Kronecker factors that
`lossatlas.weights.factors` finds for the gates precondition the gradient. They are a rough
guide for recurrent weights over many steps: their cosine to the exact Fisher block is printed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.rng import generator
from lossatlas.weights import factors

DAYS, STRIKE, VOLATILITY = 10, 1.0, 0.2


class Hedge(nn.Module):
    """Premium plus gains of an LSTM's holdings, for price paths of shape (paths, days + 1)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.rnn, self.hold = nn.LSTM(2, width, batch_first=True), nn.Linear(width, 1)
        self.premium = nn.Parameter(torch.zeros(1))

    def forward(self, prices: Tensor) -> Tensor:
        """The final wealth, shape (paths, 1), in units of a daily move."""
        left = torch.linspace(1, 0, DAYS + 1)[:-1].expand(len(prices), -1)
        seen = torch.stack([10 * (prices[:, :-1] - STRIKE), left], 2)
        holdings = self.hold(self.rnn(seen)[0])[:, :, 0]
        gains = (holdings * prices.diff(dim=1)).sum(1, keepdim=True)
        return 20 * gains + self.premium


def paths(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Geometric Brownian motion over a quarter, and the payoff of a call, in the same units."""
    draw = generator(seed, "paths")
    step = VOLATILITY * (0.25 / DAYS) ** 0.5
    moves = step * torch.randn(count, DAYS, generator=draw) - step**2 / 2
    prices = torch.cat([torch.zeros(count, 1), moves.cumsum(1)], 1).exp()
    return prices, 20 * (prices[:, -1:] - STRIKE).clamp(min=0)


def train(
    method: str, *, lr: float, steps: int = 60, damping: float = 0.3, seed: int = 0
) -> list[float]:
    """Train with plain or preconditioned gradients, momentum 0.9.

    Args:
        method: "sgd" or "kfac".
        lr: the rate.
        steps: of 256 paths each.
        damping: of the Kronecker factors, which are measured anew every fifth step.
        seed: of weights and paths.

    Returns:
        The mean squared hedging error on 1,024 fresh paths before every step.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Hedge()
    loss = la.supervised(F.mse_loss)
    test = la.Objective(model, loss, [paths(1024, seed + 1_000_000)], check=False)
    speed = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    found, errors = None, []
    for step in range(steps):
        errors.append(test.value())
        task = la.Objective(model, loss, [paths(256, seed + step)], check=False)
        slope = dict(task.gradient())
        if method == "kfac":
            if step % 5 == 0:
                found = factors(task, correct=True, examples=0, seed=step)
            assert found is not None
            slope |= found.solve(slope, damping)
        with torch.no_grad():
            for name, value in model.named_parameters():
                speed[name].mul_(0.9).add_(slope[name])
                value.sub_(lr * speed[name])
    return errors


def main() -> None:
    """Print hedging errors and the cosines of the factors."""
    rates = (0.03, 0.06, 0.1)
    for method in ("sgd", "kfac"):
        ends = {lr: train(method, lr=lr)[-1] for lr in rates}
        print(method, {lr: round(end, 4) for lr, end in ends.items()})  # noqa: T201
    task = la.Objective(Hedge(), la.supervised(F.mse_loss), [paths(64, 0)], check=False)
    for estimate in factors(task).estimates():
        print(estimate.name, estimate)  # noqa: T201


if __name__ == "__main__":
    main()
