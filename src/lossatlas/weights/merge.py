"""Merging: one network from several, its loss beside that of the average and each expert."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.checks import check_list
from lossatlas.curvature.memory_plan import require_memory
from lossatlas.errors import ArgumentError
from lossatlas.io.records import record
from lossatlas.linalg.params import Params, qualified_name
from lossatlas.objective import Objective
from lossatlas.objective.batches import Batch
from lossatlas.objective.point import State
from lossatlas.result import Estimate, Figure, Reference, quantity, result
from lossatlas.weights.example_gradients import squared_gradients
from lossatlas.weights.methods import METHODS, Change, Inputs, changed, options_of
from lossatlas.weights.network_result import NetworkResult, complete_state
from lossatlas.weights.paired import PairedLosses
from lossatlas.weights.statistics import (
    loss_anew,
    mixed_buffers,
    statistics_notes,
    whole_networks,
)
from lossatlas.weights.verdicts import (
    JOINTLY,
    at_level,
    called,
    compared_with,
    differences_figure,
    joint_level,
    reasoned,
    recommendation,
)

Array = NDArray[np.float64]
SEARCH = "search"
MODEL_SOUPS = Reference(
    "averages of fine-tuned models",
    "M. Wortsman, G. Ilharco, S. Y. Gadre et al. Model Soups. ICML 2022.",
    "https://arxiv.org/abs/2203.05482",
)


@record
@dataclass(frozen=True)
class Conflict:
    """How far experts disagree about one tensor.

    Attributes:
        tensor: its name.
        signs: share of entries on which the signs of the changes differ.
        cosine: mean cosine between the changes of two experts.
    """

    tensor: str
    signs: float
    cosine: float


@result("merge", references=(MODEL_SOUPS,))
class Merge(NetworkResult):
    """A merged network and its loss on held-out data.

    Attributes:
        params: the weights, with buffers and running statistics that belong to them.
        method: how it was made, with its options.
        loss: its loss.
        against: name of another network ("average", "base", "expert 1", ...) -> loss of the
            merged network minus that of the other, with the paired error.
        conflicts: one entry a tensor that some expert changed.
        coefficients: share of each expert, where the method has one for each.
        notes: what a reader should know, which running statistics were used among it.
        tied: second names of tied tensors -> the name in `params`.
    """

    params: Mapping[str, Tensor]
    method: str
    loss: Estimate = quantity("loss")
    against: Mapping[str, Estimate]
    conflicts: tuple[Conflict, ...]
    coefficients: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)

    def estimates(self) -> tuple[Estimate, ...]:
        """The loss, and paired differences to the average, the base and each expert.

        Returns:
            One estimate for the loss and one a difference.
        """
        others = (reasoned(e, f"merge minus {name}") for name, e in self._others().items())
        return (self.loss, *others)

    def sentences(self) -> tuple[str, ...]:
        """Whether merging helped.

        Returns:
            What to use; how the merged network compares with each other; and the notes.
        """
        name = "The merged network" if self.method != "average" else "The average"
        compared = compared_with(name, self.loss, self._compared())
        return (self.headline(), *compared, JOINTLY, *self.notes)

    def headline(self) -> str:
        """Whether to use the merged network, or the best of the others."""
        return recommendation(called(self.method), self.loss, self._compared())

    # One is called the best of several: the intervals hold for all of them together.
    def _compared(self) -> dict[str, Estimate]:
        others = self._others()
        level = joint_level(1, len(others))
        return {called(name): at_level(e, level) for name, e in others.items()}

    # An average is not compared with itself.
    def _others(self) -> dict[str, Estimate]:
        itself = "average" if self.method == "average" else None
        return {name: e for name, e in self.against.items() if name != itself}

    def figures(self) -> tuple[Figure, ...]:
        """Differences of the loss to the average, the base and each expert.

        Returns:
            One figure.
        """
        title = "Loss of the merged network minus that of others"
        return (differences_figure(title, self._others()),)


def merge(
    objective: Objective,
    base: Params,
    *experts: Params,
    method: str = "average",
    importances: Sequence[Params] = (),
    objectives: Sequence[Objective] = (),
    tune: Objective | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    **options: Any,
) -> Merge:
    """Merge fine-tuned networks into one, and measure what came out.

    With delta_i = expert_i - base the merged network is base + a combination of the deltas:
    "average" their mean; "task_arithmetic" (scale) their scaled sum; "slerp" (t) a circle;
    "ties" (density, scale) and "dare" (density, scale) thinned ones; "fisher" (normalize) and
    "ota" (density, power) means weighted by importances; "regmean" (shrink) least squares on
    the inputs of linear maps; "stock" (no option) the mean shrunk to the base; "search" the
    combination sum_i c_i delta_i whose coefficients minimize the loss on `tune` (direct search
    from the average).

    Args:
        objective: model, loss and held-out data: what the numbers are measured on.
        base: the network that the experts were fine-tuned from; names as `objective.params`.
        *experts: fine-tuned networks, names and shapes as the base.
        method: see above.
        importances: for "fisher" and "ota", one mapping an expert, name -> numbers of at least
            0; by default diagonals of the empirical Fisher matrix on `objectives`.
        objectives: one an expert, on its own data, to measure importances or inputs.
        tune: for "search", data that no network was trained on and the result is not judged on;
            by default every second batch of `objective`, which is then judged on the others.
        seed: of random choices.
        names: what each expert is called; by default "expert 1" and so on.
        **options: of the method.

    Returns:
        The weights with their loss and paired differences to average, base and experts.

    Raises:
        ArgumentError: no expert, or an argument that the method needs is missing.
        NonFiniteError: a checkpoint is not finite.
        StructureError: names or shapes differ.
        UnknownNameError: an unknown method or option.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batch = torch.ones(9, 1), torch.ones(9, 1)
        >>> objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
        >>> base, one, two = ({"weight": torch.tensor([[w]])} for w in (0.0, 0.5, 1.5))
        >>> merge(objective, base, one, two).loss.value
        0.0
    """
    require_memory(objective, "merge", experts=len(experts))
    job = MergeJob(
        objective,
        base,
        experts,
        importances=importances,
        objectives=objectives,
        tune=tune,
        seed=seed,
        names=names,
    )
    made = job.made(method, options)
    judged = PairedLosses(job.judge)
    sums = judged.sums(made.params)
    others = {"average": job.made("average", {}).params, **job.networks}
    against = {name: judged.difference(sums, judged.sums(p)) for name, p in others.items()}
    params, tied = complete_state(job.judge, made.params, base)
    return Merge(
        params=params,
        method=described(method, options),
        loss=judged.mean(sums, "loss", "loss"),
        against=against,
        conflicts=_conflicts(job.deltas),
        coefficients=made.coefficients,
        notes=(*job.notes, *loss_anew(job.judge, made.params, "the loss")),
        tied=tied,
    )


def parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """A method and its options, from text as in "ties:density=0.3,scale=1"."""
    name, _, rest = spec.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        options[key.strip()] = _value(value.strip(), spec)
    return name.strip(), options


def _value(text: str, spec: str) -> bool | float:
    if text in {"true", "false"}:
        return text == "true"
    try:
        return float(text)
    except ValueError:
        raise ArgumentError(
            f"`methods` must look like 'ties:density=0.3,scale=1'; got {spec!r}."
        ) from None


def described(name: str, options: Mapping[str, Any]) -> str:
    """A method and its options as text that `parsed` reads."""
    options_text = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}:{options_text}" if options_text else name


@dataclass(frozen=True, eq=False)
class _Made:
    params: Params
    coefficients: tuple[float, ...] = ()


# Numbers of a tensor that are compared at once.
_PIECE = 1 << 20
_ALONE = (
    "There is one expert: the first network counts as its base. To average two networks use "
    "soup(objective, a, b)."
)


class MergeJob:
    """Networks of one base, what is measured on them, and the data that judge the result."""

    def __init__(
        self,
        objective: Objective,
        base: Params,
        experts: Sequence[Params],
        *,
        importances: Sequence[Params],
        objectives: Sequence[Objective],
        tune: Objective | None,
        seed: int,
        names: Sequence[str] | None,
    ) -> None:
        if not experts:
            raise ArgumentError(
                "`experts` must hold at least one fine-tuned network; pass merge(objective, "
                "base, expert)."
            )
        if objectives and len(objectives) != len(experts):
            raise ArgumentError(
                f"`objectives` must be one an expert ({len(experts)}); got {len(objectives)}."
            )
        self.names = _called(names, len(experts))
        named = {"base": base} | dict(zip(self.names, experts, strict=True))
        self._states = whole_networks(objective, named)
        self.networks = {name: state.whole for name, state in self._states.items()}
        self.base = self._states["base"].params
        self.deltas = [
            {n: state.params[n].float() - v.float() for n, v in self.base.items()}
            for name, state in self._states.items()
            if name != "base"
        ]
        self.judge, self._tune, self._seed = objective, tune, seed
        self._given, self._objectives = importances, objectives
        self._grams: list[Change] = []
        self.notes: tuple[str, ...] = (_ALONE,) if len(experts) == 1 else ()
        states = [*self._states.values()]
        self.notes += statistics_notes(objective, states, "a merged network")

    def made(self, name: str, options: Mapping[str, Any]) -> _Made:
        """The merge by one method."""
        if name == SEARCH:
            return self._searched(options)
        change = changed(name, self.deltas, self._inputs(name), options)
        shares = _coefficients(name, options, len(self.deltas))
        return _Made(
            self._network(change, shares or self._buffer_shares(name, options, change)), shares
        )

    def _buffer_shares(
        self, name: str, options: Mapping[str, Any], change: Change
    ) -> tuple[float, ...]:
        # Of the experts in running statistics, where a method gives them none.
        if name == "slerp":
            t = float(options.get("t", options_of(name)["t"]))
            return 1 - t, t
        if not self._states["base"].buffers:
            return (1 / len(self.deltas),) * len(self.deltas)
        return shares_of(change, self.deltas)

    def split(self) -> None:
        """Keep data apart for choosing coefficients, where none were given."""
        if self._tune is not None:
            return
        batches: list[Batch] = self.judge.map_batches(lambda batch: batch)
        if len(batches) < 2:
            raise ArgumentError(
                "'search' needs data apart from those that judge the result: give them as "
                "`tune`, or cut the data into two batches or more (`batch_size` of a command)."
            )
        self._tune, self.judge = (self.judge.part(batches[k::2]) for k in (0, 1))
        self.notes += (
            "Coefficients were searched for on every second batch; all losses are those of the "
            "other batches.",
        )

    def _network(self, change: Change, shares: Sequence[float]) -> Params:
        # Zero changes give the base bit for bit.
        moved = {
            n: torch.where(change[n] == 0, v, (v.float() + change[n]).to(v.dtype))
            for n, v in self.base.items()
        }
        buffers = mixed_buffers([*self._states.values()], [1 - sum(shares), *shares])
        return State(moved, buffers).whole

    def _inputs(self, name: str) -> Inputs:
        importances, grams = self._given, list[Change]()
        if name in {"fisher", "ota"} and not importances and self._objectives:
            importances = self._given = [self._importance(k) for k in range(len(self.deltas))]
        if name == "regmean" and self._objectives:
            self._grams = self._grams or [self._gram(k) for k in range(len(self.deltas))]
            grams = self._grams
        return Inputs(self.base, importances, grams, self._seed)

    def _expert(self, number: int) -> tuple[Objective, Params]:
        return self._objectives[number], self.networks[self.names[number]]

    def _importance(self, number: int) -> Change:
        return squared_gradients(*self._expert(number))

    def _gram(self, number: int) -> Change:
        objective, params = self._expert(number)
        return _input_grams(objective, params)

    def _searched(self, options: Mapping[str, Any]) -> _Made:
        if options:
            raise ArgumentError(
                f"'search' takes no options; got {', '.join(options)}; its data are `tune`."
            )
        self.split()
        tune = self._tune
        assert tune is not None

        def loss(shares: Array) -> float:
            value = tune.value(self._network(self._combined(shares), shares.tolist()))
            return value if math.isfinite(value) else 1e30

        count = len(self.deltas)
        start = np.full(count, 1 / count)
        few = count < 4
        steps = {"xatol": 0.01, "fatol": 1e-7} if few else {"xtol": 0.01, "ftol": 1e-7}
        optimum = scipy.optimize.minimize(
            loss,
            start,
            method="Nelder-Mead" if few else "Powell",
            options=steps | {"maxfev": 60 * count},
        )
        shares = optimum.x if optimum.fun < loss(start) else start
        chosen = tuple(map(float, shares))
        return _Made(self._network(self._combined(shares), chosen), chosen)

    def _combined(self, shares: Array) -> Change:
        scales = torch.tensor(shares, dtype=torch.float32)
        return {
            name: torch.tensordot(scales, torch.stack([d[name] for d in self.deltas]).cpu(), 1)
            for name in self.base
        }


# No two alike, and none like the average, the base or a method.
def _called(names: Sequence[str] | None, count: int) -> list[str]:
    numbered = [f"expert {k}" for k in range(1, count + 1)]
    if names is None:
        return numbered
    check_list("names", names, "texts")
    if len(names) != count:
        raise ArgumentError(f"`names` must be one an expert; got {len(names)} for {count}.")
    labels: list[str] = []
    for name, number in zip(map(str, names), numbered, strict=True):
        taken = name in {"base", SEARCH, *METHODS, *labels}
        labels.append(f"{name} ({number})" if taken else name)
    return labels


def _coefficients(name: str, options: Mapping[str, Any], count: int) -> tuple[float, ...]:
    if name == "average":
        return (1 / count,) * count
    if name == "task_arithmetic":
        return (float(options.get("scale", options_of(name)["scale"])),) * count
    return ()


def shares_of(change: Params, deltas: Sequence[Params]) -> tuple[float, ...]:
    """Shares c >= 0 of experts, at most 1 in all, with least |change - sum_i c_i delta_i|."""
    # To first order in the changes, statistics are linear in the weights: the shares that give
    # the weights give the statistics. With the rest to the base they are interpolated: of
    # nearly equal experts, unbounded least squares take large multiples of either sign.
    count, entries = len(deltas), sum(value.numel() for value in change.values())
    products = sum(
        (
            _inner_products([*(delta[name] for delta in deltas), change[name]])
            for name in change
        ),
        np.zeros((count + 1, count + 1)),
    )
    # Of the differences between the merged network and each expert, and last the base.
    differences = -np.eye(count + 1)
    differences[:, count] = 1
    gram = differences @ products @ differences.T
    scale = float(gram.trace())
    if scale <= 0:
        return (1 / count,) * count
    shares = _nearest_mixture(gram / scale)
    residual = float(shares @ gram @ shares) / scale
    # Ridge regression toward equal shares: the residual is the noise of each entry, prior
    # deviations have variance 1 / count. The minimum is for experts that changed alike.
    penalty = max(count * residual / entries, 1e-9)
    spread = np.zeros_like(gram)
    spread[:count, :count] = np.eye(count) - 1 / count
    return tuple(_nearest_mixture(gram / scale + penalty * spread)[:count].tolist())


def _nearest_mixture(gram: Array) -> Array:
    """Shares c >= 0 with sum 1 and the least c^T gram c."""
    # Minimizers of |B x|^2 + (1 - sum x)^2 over x >= 0 are multiples of those shares.
    values, vectors = np.linalg.eigh(gram)
    root = np.sqrt(values.clip(0))[:, None] * vectors.T
    rows = np.vstack([root, np.ones(len(gram))])
    shares = scipy.optimize.nnls(rows, np.append(np.zeros(len(gram)), 1.0))[0]
    return np.asarray(shares / shares.sum(), np.float64)


def _inner_products(tensors: Sequence[Tensor]) -> Array:
    # Piece by piece, in float64: the whole would take several copies in twice the width.
    products = np.zeros((len(tensors), len(tensors)))
    for parts in zip(*(torch.split(each.flatten(), _PIECE) for each in tensors), strict=True):
        stack = torch.stack([part.to(parts[0].device) for part in parts]).double()
        products += (stack @ stack.T).cpu().numpy()
    return products


def _input_grams(objective: Objective, params: Params) -> Change:
    """Sums of outer products of the inputs of every linear layer whose weight moves."""
    grams: Change = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            rows = args[0].detach().flatten(0, -2).double()
            own = rows.T @ rows
            grams[name] = grams[name] + own if name in grams else own

        return note

    named = [(qualified_name(path, "weight"), m) for path, m in objective.model.named_modules()]
    linear = [(n, m) for n, m in named if isinstance(m, nn.Linear) and n in objective.names]
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in linear]
    try:
        with torch.no_grad():
            objective.with_params(
                params, lambda: [objective.batch_loss(b) for b in objective.iter_batches()]
            )
    finally:
        for handle in handles:
            handle.remove()
    return grams


def _conflicts(deltas: Sequence[Params]) -> tuple[Conflict, ...]:
    conflicts = []
    for name in deltas[0]:
        rows = [delta[name].flatten() for delta in deltas]
        if len(rows) < 2 or not any(bool(row.any()) for row in rows):
            continue
        differ, products = 0, _inner_products(rows)
        for parts in zip(*(torch.split(row, _PIECE) for row in rows), strict=True):
            stack = torch.stack(parts)
            differ += int(((stack > 0).any(0) & (stack < 0).any(0)).sum())
        lengths = np.sqrt(products.diagonal()).clip(1e-12)
        cosines = products / np.outer(lengths, lengths)
        mean = float((cosines.sum() - cosines.trace()) / (len(rows) * (len(rows) - 1)))
        conflicts.append(Conflict(name, differ / rows[0].numel(), mean))
    return tuple(conflicts)
