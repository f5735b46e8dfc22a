"""Hand a posterior to laplace-torch: `python examples/laplace_torch.py`.

laplace-torch (0.3) fits its curvature by passes of its own, which refuse BatchNorm and
recurrent layers. Here lossatlas measures the Gauss-Newton matrix of a network with BatchNorm,
and a `FullLaplace` takes it over: evidence, predictions with their uncertainty and samples then
work. The evidence is compared with that of `effective_parameters`.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import effective_parameters, gauss_newton

PRIOR = 2.0


def trained(inputs: Tensor, labels: Tensor) -> nn.Sequential:
    """A small classifier at a maximum of its posterior, norm layers in eval mode."""
    torch.manual_seed(0)
    layers = nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)
    model = nn.Sequential(*layers).double()
    model(inputs)  # running statistics of these data
    model.eval()
    weights = list(model.parameters())
    optimizer = torch.optim.LBFGS(weights, max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        squares = torch.stack([value.square().sum() for value in weights]).sum()
        loss = F.cross_entropy(model(inputs), labels, reduction="sum") + PRIOR / 2 * squares
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def hand_over(objective: la.Objective, prior: float) -> Any:
    """A `FullLaplace` whose curvature is the Gauss-Newton matrix of an objective.

    Args:
        objective: cross-entropy over all examples, at a maximum of the posterior.
        prior: precision of the prior.

    Returns:
        The posterior, ready for `log_marginal_likelihood`, calls and `sample`.
    """
    from laplace import FullLaplace

    matrix, model = gauss_newton(objective), objective.model
    count = len(objective.example_losses())
    found = FullLaplace(model, "classification", prior_precision=prior)
    unit = torch.eye(matrix.size, dtype=matrix.dtype)
    dense = torch.stack([matrix.flat(row) for row in unit])
    # The operator's parameters come in the order of the model's.
    found.H = count * (dense + dense.T) / 2
    found.loss = torch.tensor(count * objective.value(), dtype=matrix.dtype)
    found.mean = nn.utils.parameters_to_vector(model.parameters()).detach()
    found.n_data = count
    inputs, _ = objective.first_batch()
    found.n_outputs = model(inputs[:1]).shape[-1]
    model.output_size = found.n_outputs
    return found


def main() -> tuple[Any, float, list[float]]:
    """Train, measure, hand over; both evidences and one prediction."""
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(120, 2, generator=draw, dtype=torch.float64)
    labels = (inputs.prod(1) + 0.3 * torch.randn(120, generator=draw).double() > 0).long()
    model = trained(inputs, labels)
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(inputs, labels)])
    ours = effective_parameters(objective, PRIOR)
    theirs = hand_over(objective, PRIOR)
    evidence = float(theirs.log_marginal_likelihood())
    near, far = torch.tensor([[1.0, 1.0], [8.0, 8.0]], dtype=torch.float64).split(1)
    chances = [float(theirs(x, link_approx="probit")[0, 1]) for x in (near, far)]
    sys.stdout.write(
        f"effective parameters: {ours.effective} of {ours.parameters}\n"
        f"log evidence: {ours.log_evidence} (lossatlas), {evidence:.6f} (laplace-torch)\n"
        f"P(class 1) near the data {chances[0]:.3f}, far from them {chances[1]:.3f}\n"
    )
    return ours, evidence, chances


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as error:
        sys.exit(f"this example needs {error.name}: pip install laplace-torch")
