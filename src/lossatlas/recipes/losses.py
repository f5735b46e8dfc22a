"""Penalties of a recipe: the loss that is trained, and what hangs on the optimizer."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.errors import ArgumentError
from lossatlas.objective import Batch
from lossatlas.recipes.recipe import Recipe
from lossatlas.steering.penalties import (
    CautiousDecay,
    SpectralRegularizer,
    apply_cvp_,
    captured_features,
    sasp_cross_entropy,
    sasp_penalty,
    sbmp_penalty,
)
from lossatlas.steering.penalties.sasp import Head, SaspKind
from lossatlas.steering.sam import SAM
from lossatlas.steering.updates import run_first
from lossatlas.training.dataset import Dataset

Loss = Callable[[nn.Module, Batch], Tensor]
# The losses whose head SASP knows, and what it calls that head.
HEADS: dict[str, Head] = {"cross_entropy": "softmax", "mse": "linear", "bce": "sigmoid"}


def training_loss(
    recipe: Recipe, model: nn.Module, criterion: Callable[..., Tensor] | None = None
) -> Loss:
    """The loss of a recipe for batches (input, target)."""
    penalties = recipe.penalties
    plain = _cross_entropy(penalties) if criterion is None else _any_loss(penalties, criterion)
    base = _with_decay(plain, penalties["l2"]) if penalties.get("l2") else plain
    if "spectral" in penalties:
        base = _with_spectral(base, SpectralRegularizer(model, penalties["spectral"]))
    if "sbmp" in penalties:
        base = _with_sbmp(base, penalties["sbmp"])
    if "noise" in penalties:
        base = _with_noise(base, penalties["noise"])
    return base


def check_served(
    recipe: Recipe, criterion: Callable[..., Tensor] | None, data: Dataset
) -> None:
    """Require penalties that these data and this loss can have."""
    if criterion is not None:
        _any_loss(recipe.penalties, criterion)
    shaken = {"noise", "sbmp"} & recipe.penalties.keys()
    if shaken and (criterion is not None or not data.inputs.is_floating_point()):
        raise ArgumentError(
            f"'{min(shaken)}' in '{recipe.name}' needs inputs that are numbers and classes, "
            "one an example; leave it out."
        )


def register_hooks(recipe: Recipe, optimizer: torch.optim.Optimizer) -> None:
    """Register the gated decays of a recipe as hooks of its optimizer."""
    penalties = recipe.penalties
    if "cwd" in penalties:
        CautiousDecay(optimizer, penalties["cwd"])
    for name, scale_free in (("cvp", True), ("cvp-original", False)):
        if name in penalties:
            optimizer.register_step_pre_hook(_gated(penalties[name], scale_free))


def register_ascent(
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    again: Callable[[], Tensor],
) -> None:
    """Take gradients uphill where a recipe has "sam"; `again` gives the loss of the batch."""
    if "sam" not in recipe.penalties:
        return
    sam = SAM(optimizer, recipe.penalties["sam"], model=model)

    def ascend(*_: object) -> None:
        with sam.perturbed(), torch.enable_grad():
            torch.autograd.backward(again())

    # Before the weights are taken elsewhere, as `InterpolatedGradients` does.
    run_first(optimizer._optimizer_step_pre_hooks, optimizer.register_step_pre_hook(ascend))


def _gated(lam: float, scale_free: bool) -> Callable[..., None]:
    def decay(made: torch.optim.Optimizer, *_: object) -> None:
        weights = [p for group in made.param_groups for p in group["params"]]
        apply_cvp_(weights, lam, mode="expansion", scale_free=scale_free)

    return decay


def _cross_entropy(penalties: dict[str, float]) -> Loss:
    smoothing, (rho, kind) = penalties.get("smoothing", 0.0), _sasp(penalties)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        if not rho:
            return F.cross_entropy(model(inputs), targets, label_smoothing=smoothing)
        with captured_features(model) as head:
            logits = model(inputs)
        value, _ = sasp_cross_entropy(
            logits, head.features, targets, weight=rho, kind=kind, label_smoothing=smoothing
        )
        return value

    return loss


def _any_loss(penalties: dict[str, float], criterion: Callable[..., Tensor]) -> Loss:
    name = getattr(criterion, "name", type(criterion).__name__)
    (rho, kind), head = _sasp(penalties), HEADS.get(name)
    if penalties.get("smoothing"):
        raise ArgumentError(f"'smoothing' needs class indices, one an example; got '{name}'.")
    if rho and head is None:
        raise ArgumentError(f"'sasp' needs one of the losses {', '.join(HEADS)}; got '{name}'.")

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        if not rho or head is None:
            return criterion(model(inputs), targets).mean()
        with captured_features(model) as caught:
            logits = model(inputs)
        penalty = sasp_penalty(logits, caught.features, targets, kind=kind, head=head)
        return criterion(logits, targets).mean() + rho * penalty

    return loss


def _sasp(penalties: dict[str, float]) -> tuple[float, SaspKind]:
    kind: SaspKind = "fisher" if "sasp-fisher" in penalties else "ggn"
    return penalties.get("sasp", penalties.get("sasp-fisher", 0.0)), kind


def _with_decay(base: Loss, decay: float) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        squares = [p.square().sum() for p in model.parameters()]
        return base(model, batch) + 0.5 * decay * torch.stack(squares).sum()

    return loss


def _with_spectral(base: Loss, penalty: SpectralRegularizer) -> Loss:
    return lambda model, batch: base(model, batch) + penalty()


def _with_sbmp(base: Loss, lam: float) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs = batch[0]
        # As far from the pictures as a tenth of a deviation of every pixel.
        alpha = 0.1 * math.sqrt(inputs[0].numel())
        clean = model(inputs)
        return base(model, batch) + lam * sbmp_penalty(clean, model, inputs, alpha, model=model)

    return loss


def _with_noise(base: Loss, deviation: float) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return base(model, (inputs + deviation * torch.randn_like(inputs), targets))

    return loss
