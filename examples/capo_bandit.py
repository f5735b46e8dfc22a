"""Which samples of a policy gradient step too far: `python examples/capo_bandit.py`.

CAPO (arXiv:2510.00819) proposes an optimizer step, and leaves those samples out of the gradient
for which the step changes the policy too much, to second order. Here the policy is a linear
softmax over ten arms for each of 64 contexts, and the rate of Adam is ten times too large. The
same probe may shorten the step instead; on this bandit that helps, and the mask does not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lossatlas.rng import generator

CONTEXTS, ARMS, WIDTH = 64, 10, 16


@dataclass(frozen=True, eq=False)
class Moves:
    """What a step does at each sample, to second order.

    Attributes:
        policy: Fisher form of the step in the direction of the sampled arm, (g^T u)^2 / 2; its
            mean over arms is the Kullback-Leibler divergence of the policy, shape (samples,).
        objective: change of the surrogate A log pi, shape (samples,).
    """

    policy: Tensor
    objective: Tensor


def probe(logits: Tensor, arms: Tensor, advantages: Tensor, change: Tensor) -> Moves:
    """The second-order model of a change of the logits.

    Args:
        logits: of the policy, shape (samples, arms).
        arms: that were drawn, shape (samples,).
        advantages: of the draws, shape (samples,).
        change: of the logits by the step, shape (samples, arms).

    Returns:
        Changes of policy and objective.
    """
    shares = logits.softmax(1)
    slope = F.one_hot(arms, logits.shape[1]) - shares
    along = (slope * change).sum(1)
    variance = (shares * change.square()).sum(1) - (shares * change).sum(1).square()
    return Moves(along.square() / 2, advantages * (along - variance / 2))


@dataclass(eq=False)
class Adam:
    """Adam that can say what step it would make."""

    lr: float
    first: Tensor
    second: Tensor
    count: int = 0

    def proposed(self, gradient: Tensor) -> Tensor:
        """The step for a gradient; nothing is changed."""
        count = self.count + 1
        first = (0.9 * self.first + 0.1 * gradient) / (1 - 0.9**count)
        second = (0.999 * self.second + 0.001 * gradient.square()) / (1 - 0.999**count)
        return self.lr * first / (second.sqrt() + 1e-8)

    def step(self, gradient: Tensor) -> Tensor:
        """The step for a gradient; the moments move on."""
        made = self.proposed(gradient)
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient.square()
        self.count += 1
        return made


def train(
    *, how: str = "plain", limit: float = 0.5, steps: int = 150, lr: float = 1.0, seed: int = 0
) -> tuple[list[float], list[float]]:
    """REINFORCE on the bandit.

    Args:
        how: "plain"; "mask" leaves samples out whose policy would move by more than the limit;
            "scale" shortens the step until the mean change of the policy is within it.
        limit: of the change of the policy.
        steps: of 64 samples each.
        lr: of Adam.
        seed: of rewards, contexts and draws.

    Returns:
        The expected reward before every step, and the largest change of the policy at a sample
        of it.
    """
    draw = generator(seed, "bandit")
    contexts = torch.randn(CONTEXTS, WIDTH, generator=draw)
    rewards = torch.randn(CONTEXTS, ARMS, generator=draw)
    weights = torch.zeros(ARMS, WIDTH)
    adam = Adam(lr, torch.zeros_like(weights), torch.zeros_like(weights))
    returns, moves = [], []
    for _ in range(steps):
        shares = (contexts @ weights.T).softmax(1)
        returns.append(float((shares * rewards).sum(1).mean()))
        arms = torch.multinomial(shares, 1, generator=draw).squeeze(1)
        noise = 0.5 * torch.randn(CONTEXTS, generator=draw)
        advantages = rewards[torch.arange(CONTEXTS), arms] + noise
        advantages = advantages - advantages.mean()
        slopes = (F.one_hot(arms, ARMS) - shares) * advantages[:, None]
        change = contexts @ adam.proposed(slopes.T @ contexts / CONTEXTS).T
        found = probe(contexts @ weights.T, arms, advantages, change)
        moves.append(float(found.policy.max()))
        share = 1.0
        if how == "mask":
            slopes = slopes * (found.policy <= limit)[:, None]
        if how == "scale":
            share = min(1.0, (limit / float(found.policy.mean())) ** 0.5)
        weights = weights + share * adam.step(slopes.T @ contexts / CONTEXTS)
    return returns, moves


def main() -> None:
    """Print the reward of all ways."""
    for how, limit in (("plain", 0.0), ("mask", 0.5), ("scale", 0.01)):
        runs = [train(how=how, limit=limit, seed=seed) for seed in range(4)]
        rewards = ", ".join(f"{returns[-1]:.2f}" for returns, _ in runs)
        moved = max(max(moves) for _, moves in runs)
        print(f"{how}: rewards {rewards}; largest change of a policy {moved:.0f}")  # noqa: T201


if __name__ == "__main__":
    main()
