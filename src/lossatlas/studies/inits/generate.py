"""Stage 1: points of parameter space from many initializers, and the true losses there."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError, DataError
from lossatlas.executor import Executor, Progress, run_tasks
from lossatlas.rng import derive_seed, generator
from lossatlas.store import open_ledger, remove_ledger
from lossatlas.studies.inits.candidate import Candidate
from lossatlas.studies.inits.candidates import check_schemes
from lossatlas.studies.inits.files import ledger_of, provenance, stage_identity
from lossatlas.studies.inits.problem import Problem
from lossatlas.studies.inits.samples import Samples
from lossatlas.studies.inits.schemes import INTERPOLATION
from lossatlas.studies.inits.settings import InitsSettings
from lossatlas.studies.inits.threads import one_thread

Array = NDArray[np.float64]
# As published: parents are taken from the first 500 among the best 30 %.
_BEST, _PARENTS, _MIX_NOISE = 0.3, 500, 0.1


def generate(
    settings: InitsSettings,
    subject: Problem,
    *,
    executor: str | Executor | None = None,
    progress: Progress | None = None,
) -> Samples:
    """Draw recipes and compute their losses; what is done is kept in the folder."""
    base = base_recipes(settings)
    subject.initializer.draw(base[0])
    losses = _losses(settings, subject, base, executor, progress)
    if not np.isfinite(losses).any():
        # What is there is of no use, and must not bar the way to other settings.
        remove_ledger(ledger_of(settings, "generate"))
        raise DataError(
            f"none of {len(losses)} initializations has a finite loss; give smaller scales, "
            "as in --set generate.scales=[0.5,1.0]."
        )
    mixed = mixed_recipes(settings, base, losses)
    losses = np.concatenate([losses, _losses(settings, subject, mixed, executor, progress)])
    made = provenance(settings, "generate", subject.fingerprint)
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
    found = []
    for index in range(count):
        size = min(int(torch.randint(2, 5, (1,), generator=random)), len(good))
        picked = torch.randperm(len(good), generator=random)[:size].tolist()
        parents = tuple(base[int(good[place])] for place in picked)
        seed = _seed(settings, len(base) + index)
        noise = _MIX_NOISE if settings.generate.noise else 0.0
        found.append(Candidate(INTERPOLATION, 1.0, seed, noise, parents))
    return tuple(found)


def _seed(settings: InitsSettings, index: int) -> int:
    return derive_seed(settings.seed, "generate", index) % 2**31


def _losses(
    settings: InitsSettings,
    subject: Problem,
    candidates: Sequence[Candidate],
    executor: str | Executor | None,
    progress: Progress | None,
) -> Array:
    chunk = settings.generate.chunk
    kind = "mixtures" if candidates and candidates[0].parents else "initializers"
    parts = {
        f"{kind} from {first}": candidates[first : first + chunk]
        for first in range(0, len(candidates), chunk)
    }
    run = stage_identity(settings, "generate", subject.fingerprint)
    with open_ledger(ledger_of(settings, "generate"), run) as ledger:
        # Begun where it works: what is fast there is found out once in each process.
        tables = list(
            run_tasks(
                parts,
                lambda: _measure(subject),
                executor=executor or settings.executor,
                ledger=ledger,
                progress=progress,
            )
        )
    return np.concatenate([np.empty(0), *(table[:, 0] for table in tables)])


def _measure(subject: Problem) -> Callable[[Sequence[Candidate]], Array]:
    initializer, losses = subject.initializer, subject.true_losses()

    def measure(candidates: Sequence[Candidate]) -> Array:
        with one_thread():
            found: Array = losses(initializer.stack(candidates)).numpy()
        return found[:, None]

    return measure
