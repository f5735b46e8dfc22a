"""Stage 1: initializations of many schemes, and their true losses."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas import io
from lossatlas.errors import ArgumentError, DataError
from lossatlas.executor import Executor, Progress
from lossatlas.executor.executors import ExecutorName
from lossatlas.inits.candidates import Candidate, check_schemes
from lossatlas.inits.paths import ledger_of, provenance, run_stage_tasks
from lossatlas.inits.problem import Problem
from lossatlas.inits.schemes import INTERPOLATION
from lossatlas.inits.scores import mean_estimate, scheme_figure
from lossatlas.inits.settings import InitsSettings
from lossatlas.io import remove_ledger
from lossatlas.result import Estimate, Figure, Result, quantity, result
from lossatlas.rng import derive_seed, generator
from lossatlas.text import number

Array = NDArray[np.float64]
# As published: parents are taken from the first 500 among the best 30 %.
_BEST, _PARENTS, _MIX_NOISE = 0.3, 500, 0.1


@result("inits-samples")
class Samples(Result):
    """Points of parameter space with their losses; the points are recipes.

    Attributes:
        candidates: the recipes.
        losses: of the probe, float64, shape (candidates,); NaN or infinite where a loss is.
        provenance: settings, seed, fingerprint of the data.

    Examples:
        >>> recipes = (Candidate("normal"), Candidate("normal", seed=1))
        >>> print(Samples(recipes, np.array([2.5, 3.5])).estimates()[-1])
        loss, normal: 3.00 ± 0.50
    """

    candidates: tuple[Candidate, ...]
    losses: Array = quantity("loss")
    provenance: io.Provenance = field(default_factory=io.Provenance)

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.candidates)

    @property
    def schemes(self) -> NDArray[np.str_]:
        """The scheme of each candidate, shape (candidates,)."""
        return np.array([candidate.scheme for candidate in self.candidates])

    def estimates(self) -> tuple[Estimate, ...]:
        """How many samples there are, how many lack a finite loss, the mean of each scheme."""
        lost = float((~np.isfinite(self.losses)).sum())
        return (
            Estimate(float(len(self)), 0.0, name="samples"),
            Estimate(lost, 0.0, name="losses not finite"),
            *(mean_estimate(losses, f"loss, {scheme}") for scheme, losses in self._finite()),
        )

    def sentences(self) -> tuple[str, ...]:
        """Which scheme starts lowest and which highest."""
        means = {scheme: float(losses.mean()) for scheme, losses in self._finite()}
        if not means:
            return ("No initialization has a finite loss.",)
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        return (
            f"The mean loss at initialization is lowest for {low} ({number(means[low])}) and "
            f"highest for {high} ({number(means[high])}).",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The losses of every scheme."""
        finite = dict(self._finite())
        return (scheme_figure("losses", "Loss at initialization", finite, "loss"),)

    def _finite(self) -> Iterator[tuple[str, Array]]:
        losses, schemes = np.asarray(self.losses), self.schemes
        finite = np.isfinite(losses)
        for scheme in np.unique(schemes[finite]):
            yield str(scheme), losses[finite & (schemes == scheme)]


def generate(
    settings: InitsSettings,
    problem: Problem,
    *,
    executor: ExecutorName | Executor | None = None,
    progress: Progress | None = None,
) -> Samples:
    """Draw recipes and compute their losses; what is done is kept in the folder."""
    base = base_recipes(settings)
    problem.initializer.draw(base[0])
    losses = _losses(settings, problem, base, executor, progress)
    if not np.isfinite(losses).any():
        # What is there is of no use, and must not bar the way to other settings.
        remove_ledger(ledger_of(settings, "generate"))
        raise DataError(
            f"none of {len(losses)} initializations has a finite loss; give smaller scales, "
            "as in --set generate.scales=[0.5,1.0]."
        )
    mixed = mixed_recipes(settings, base, losses)
    losses = np.concatenate([losses, _losses(settings, problem, mixed, executor, progress)])
    made = provenance(settings, "generate", problem.fingerprint)
    return Samples((*base, *mixed), losses, made)


def base_recipes(settings: InitsSettings) -> tuple[Candidate, ...]:
    """Initializers with scales and noise."""
    plan = settings.generate
    check_schemes(tuple(plan.schemes))
    shares = torch.tensor(list(plan.schemes.values()), dtype=torch.float64)
    if not bool((shares >= 0).all()) or not bool(shares.sum() > 0):
        raise ArgumentError(
            f"`generate.schemes` must give shares >= 0, one of them > 0; got {plan.schemes}."
        )
    count = plan.samples - round(plan.interpolated * plan.samples)
    random = generator(settings.seed, "generate")
    which = torch.multinomial(shares, count, replacement=True, generator=random).tolist()
    low, high = plan.scales
    scales = (low + (high - low) * torch.rand(count, generator=random).double()).tolist()
    noisy = torch.rand(count, generator=random) < plan.perturbed
    spread = plan.noise * (1 + 0.2 * torch.randn(count, generator=random)).clamp(min=0)
    noise = (spread * noisy).double().tolist()
    names = list(plan.schemes)
    return tuple(
        Candidate(names[kind], scale, _seed(settings, index), deviation)
        for index, (kind, scale, deviation) in enumerate(zip(which, scales, noise, strict=True))
    )


def mixed_recipes(
    settings: InitsSettings, base: Sequence[Candidate], losses: Array
) -> tuple[Candidate, ...]:
    """Mixtures of two to four of the better recipes."""
    count = settings.generate.samples - len(base)
    finite = np.where(np.isfinite(losses), losses, np.inf)
    good = np.flatnonzero(finite <= np.quantile(finite[np.isfinite(finite)], _BEST))[:_PARENTS]
    random = generator(settings.seed, "mix")
    mixed = []
    for index in range(count):
        size = min(int(torch.randint(2, 5, (1,), generator=random)), len(good))
        picked = torch.randperm(len(good), generator=random)[:size].tolist()
        parents = tuple(base[int(good[place])] for place in picked)
        seed = _seed(settings, len(base) + index)
        noise = _MIX_NOISE if settings.generate.noise else 0.0
        mixed.append(Candidate(INTERPOLATION, 1.0, seed, noise, parents))
    return tuple(mixed)


def _seed(settings: InitsSettings, index: int) -> int:
    return derive_seed(settings.seed, "generate", index) % 2**31


def _losses(
    settings: InitsSettings,
    problem: Problem,
    candidates: Sequence[Candidate],
    executor: ExecutorName | Executor | None,
    progress: Progress | None,
) -> Array:
    chunk = settings.generate.chunk
    kind = "mixtures" if candidates and candidates[0].parents else "initializers"
    tasks = {
        f"{kind} from {first}": candidates[first : first + chunk]
        for first in range(0, len(candidates), chunk)
    }
    # Begun where it works: what is fast there is found out once in each process.
    tables = run_stage_tasks(
        settings,
        "generate",
        problem.fingerprint,
        tasks,
        lambda: _measure(problem),
        executor=executor,
        progress=progress,
    )
    return np.concatenate([np.empty(0), *tables])


def _measure(problem: Problem) -> Callable[[Sequence[Candidate]], Array]:
    initializer, losses = problem.initializer, problem.true_losses()
    return lambda candidates: np.asarray(losses(initializer.stack(candidates)).numpy())
