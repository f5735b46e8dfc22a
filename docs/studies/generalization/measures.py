"""What is measured of one network: everything but the test set is taken from training data."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_networks import Split, Trained

import lossatlas as la
from lossatlas import curvature
from lossatlas.errors import AtlasError

# Sigma: the training error may rise by this share, over so many draws.
_RISE, _DRAWS, _BISECTIONS = 0.1, 15, 14
# One value for all networks: coefficients compare only at the same localization and prior.
LOCALIZATION, PRIOR = 300.0, 1.0
# Name -> (group, what it is). A larger value should mean a larger gap.
MEASURES = {
    "1 / sigma": ("PAC-Bayes", "noise that the training error bears, all weights alike"),
    "1 / sigma, relative": ("PAC-Bayes", "the same in units of the size of each weight"),
    "distance / sigma": (
        "PAC-Bayes",
        "distance from the start over sigma: the bound's main term",
    ),
    "largest eigenvalue": ("sharpness", "of the Hessian"),
    "trace": ("sharpness", "of the Hessian"),
    "worst rise": ("sharpness", "of the loss within 0.05 (SAM)"),
    "worst rise, adaptive": ("sharpness", "in units of the size of each weight (ASAM)"),
    "relative flatness": ("sharpness", "of the last layer"),
    "path norm": ("norms", "root of the sum over paths of squared weights"),
    "spectral norms": ("norms", "logarithm of their product"),
    "spectral norms / margin": ("norms", "bound of Bartlett et al., with stable ranks"),
    "Frobenius norm": ("norms", "of all weights"),
    "distance": ("norms", "from the start"),
    "1 / margin": ("margins", "lowest tenth of the margins of training examples"),
    "spread / margin": ("margins", "the same over the standard deviation of the outputs"),
    "learning coefficient": ("volume", "at localization 300"),
    "effective parameters": ("volume", "at prior precision 1"),
    "log determinant": ("volume", "log det(1 + n H / prior): the Occam factor"),
    "gradient scatter": ("noise", "trace of the covariance of single gradients"),
    "noise scale": ("noise", "scatter over the squared gradient"),
    "training loss": ("baselines", "at the end"),
    "epochs": ("baselines", "until the training loss is reached"),
    "parameters": ("baselines", "how many there are"),
    "depth": ("baselines", "hidden layers"),
    "1 / learning rate": ("baselines", ""),
    "batch size": ("baselines", ""),
    "- weight decay": ("baselines", ""),
    "held-out loss": ("baselines", "of 100 examples that are in neither set"),
}


def targets(data: Split, trained: Trained) -> dict[str, float]:
    """What is to be predicted: test minus training, of error and of loss."""
    (error, loss), (own, low) = (
        _scores(trained.model, *part) for part in (data.test, data.train)
    )
    return {"error gap": error - own, "loss gap": loss - low, "training error": own}


def measured(
    data: Split, setting: dict[str, float], trained: Trained, seed: int
) -> dict[str, float]:
    """Every measure of one network; NaN where an instrument declines."""
    model, objective = trained.model, objective_of(data, trained)
    found = _sharpness(objective, seed) | _volumes(objective, seed)
    found |= _norms(model, trained.start, data) | _sigmas(model, data)
    found["distance / sigma"] = found["distance"] * found["1 / sigma"]
    found |= {
        "training loss": trained.loss,
        "epochs": float(trained.epochs),
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "depth": float(setting["depth"]),
        "1 / learning rate": 1 / setting["lr"],
        "batch size": float(setting["batch size"]),
        "- weight decay": -setting["weight decay"],
        "held-out loss": _scores(model, *data.held_out)[1],
    }
    return {name: float(found[name]) for name in MEASURES}


def objective_of(data: Split, trained: Trained) -> la.Objective:
    """The mean cross-entropy over the training set."""
    loss = la.supervised(F.cross_entropy)
    return la.Objective(trained.model, loss, [data.train], check=False)


def _scores(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        outputs = model(inputs)
    wrong = (outputs.argmax(1) != labels).double().mean()
    return float(wrong), float(F.cross_entropy(outputs.double(), labels))


def _or_nan(call):
    try:
        return call()
    except AtlasError:
        return None


def _sharpness(objective, seed: int) -> dict[str, float]:
    worst = {"restarts": 1, "steps": 10, "seed": seed}
    top = curvature.spectrum(objective, 1, 0, False, 0.01, seed=seed).top[0]
    noise = curvature.gradient_noise(objective, seed=seed)
    return {
        "largest eigenvalue": top,
        "trace": curvature.trace(objective, tolerance=0.05, seed=seed).value,
        "worst rise": curvature.worst_sharpness(objective, **worst).rise.value,
        "worst rise, adaptive": curvature.worst_sharpness(
            objective, adaptive=True, **worst
        ).rise.value,
        "relative flatness": curvature.relative_flatness(objective, limit=100, seed=seed).value,
        "gradient scatter": noise.scatter.value,
        "noise scale": noise.noise_scale.value,
    }


def _volumes(objective, seed: int) -> dict[str, float]:
    coefficient = _or_nan(
        lambda: curvature.learning_coefficient(objective, 2, None, LOCALIZATION, seed=seed)
    )
    value = coefficient.value.value if coefficient else math.nan
    return {"learning coefficient": value} | effective(objective, seed)


def effective(objective, seed: int) -> dict[str, float]:
    """What the data determine under the prior; NaN where the instrument declines."""
    options = {"probes": 2, "tolerance": 0.03, "seed": seed}
    effective = _or_nan(lambda: curvature.effective_parameters(objective, PRIOR, **options))
    return {
        "effective parameters": effective.effective.value if effective else math.nan,
        "log determinant": effective.log_determinant.value if effective else math.nan,
    }


def _norms(model: nn.Sequential, start: dict[str, Tensor], data: Split) -> dict[str, float]:
    inputs, labels = data.train
    weights = [p.detach().double() for n, p in model.named_parameters() if p.ndim > 1]
    spectral = torch.stack([torch.linalg.matrix_norm(w, 2) for w in weights])
    ranks = torch.stack([w.square().sum() for w in weights]) / spectral.square()
    squares = {n: p.detach().square() for n, p in model.named_parameters()}
    with torch.no_grad():
        paths = torch.func.functional_call(model, squares, (torch.ones_like(inputs[:1]),))
        outputs = model(inputs).double()
    right = outputs.gather(1, labels[:, None]).squeeze(1)
    others = outputs.scatter(1, labels[:, None], -math.inf).amax(1)
    margin = max(float((right - others).quantile(0.1)), 1e-6)
    return {
        "path norm": float(paths.double().sum().sqrt()),
        "spectral norms": float(spectral.log().sum()),
        "spectral norms / margin": float(
            2 * spectral.log().sum() + ranks.sum().log() - 2 * math.log(margin)
        ),
        "Frobenius norm": math.sqrt(sum(float(w.square().sum()) for w in weights)),
        "distance": math.sqrt(
            sum(
                float((p.detach() - start[n]).double().square().sum())
                for n, p in model.named_parameters()
            )
        ),
        "1 / margin": 1 / margin,
        "spread / margin": float(outputs.std()) / margin,
    }


def _sigmas(model: nn.Sequential, data: Split) -> dict[str, float]:
    here = {n: p.detach() for n, p in model.named_parameters()}
    sizes = {n: v.abs() for n, v in here.items()}
    ones = {n: torch.ones_like(v) for n, v in here.items()}
    names = {"1 / sigma": ones, "1 / sigma, relative": sizes}
    return {name: 1 / _sigma(model, here, scale, data) for name, scale in names.items()}


def _sigma(model: nn.Module, here, scale, data: Split) -> float:
    # The same draws at every sigma, so that the error grows about steadily.
    inputs, labels = data.train
    drawn = torch.Generator().manual_seed(0)
    noises = [
        {n: scale[n] * torch.randn(v.shape, generator=drawn) for n, v in here.items()}
        for _ in range(_DRAWS)
    ]
    base = _scores(model, inputs, labels)[0]

    def rise(sigma: float) -> float:
        wrong = []
        for noise in noises:
            moved = {n: v + sigma * noise[n] for n, v in here.items()}
            with torch.no_grad():
                outputs = torch.func.functional_call(model, moved, (inputs,))
            wrong.append(float((outputs.argmax(1) != labels).double().mean()))
        return sum(wrong) / len(wrong) - base

    low, high = math.log(1e-4), math.log(10.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rise(math.exp(middle)) < _RISE else (low, middle)
    return math.exp((low + high) / 2)
