"""Merging: one network from several, its loss beside that of the average and each expert."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.checks import check_list, check_same_structure
from lossatlas.curvature.memory_plan import require_memory
from lossatlas.errors import ArgumentError
from lossatlas.io.records import record
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.batches import Batch
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.weights.align import check_finite
from lossatlas.weights.example_gradients import squared_gradients
from lossatlas.weights.methods import METHODS, Change, Inputs, changed, options_of
from lossatlas.weights.paired import EQUAL, PairedLosses, blend
from lossatlas.weights.unfinished import Unfinished, identity

Array = NDArray[np.float64]
SEARCH = "search"
_SOUP = Reference(
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


@result("merge", references=(_SOUP,))
class Merge(Result):
    """A merged network and its loss on held-out data.

    Attributes:
        params: the weights.
        method: how it was made, with its options.
        loss: its loss.
        against: name of another network ("average", "base", "expert 1", ...) -> loss of the
            merged network minus that of the other, with the paired error.
        conflicts: one entry a tensor that some expert changed.
        coefficients: share of each expert, where the method has one for each.
        notes: what a reader should know.
    """

    params: Mapping[str, Tensor]
    method: str
    loss: Estimate = quantity("loss")
    against: Mapping[str, Estimate]
    conflicts: tuple[Conflict, ...]
    coefficients: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    def estimates(self) -> tuple[Estimate, ...]:
        """The loss, and paired differences to the average, the base and each expert.

        Returns:
            One estimate for the loss and one a difference.
        """
        others = (_reasoned(e, f"minus {name}") for name, e in self._others().items())
        return (self.loss, *others)

    def sentences(self) -> tuple[str, ...]:
        """Whether merging helped.

        Returns:
            A sentence against the average, unless it is the average; one against the base and
            each expert; and the notes.
        """
        found, others = list[str](), self._others()
        average = others.pop("average", None)
        if average is not None:
            found.append(
                f"Merged by {self.method}, the loss is {_verdict(average)} the plain average"
                f"{_difference(average)}."
            )
        name = "The merged network" if self.method != "average" else "The average"
        return (*found, *_helped(name, self.loss, others), *self.notes)

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
        return (_differences(title, self._others()),)


@result("merge comparison", references=(_SOUP,))
class MergeComparison(Result):
    """Several merges of the same networks on the same held-out data.

    Attributes:
        losses: name of a merge or of a network -> its loss.
        against: name -> its loss minus that of the plain average, with the paired error.
        coefficients: name of a merge -> share of each expert, where it has one for each.
        failed: name of a merge -> why it could not be made.
        notes: what a reader should know.
        networks: names of the base and the experts among `losses`.
    """

    losses: Mapping[str, Estimate] = quantity("loss")
    against: Mapping[str, Estimate] = quantity("loss")
    coefficients: Mapping[str, tuple[float, ...]]
    failed: Mapping[str, str]
    notes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    def estimates(self) -> tuple[Estimate, ...]:
        """The loss of the plain average, and differences to it, the best first.

        Returns:
            One estimate for the average, and one a merge and network.
        """
        order = sorted(self.against, key=lambda name: self.against[name].value)
        average = replace(self.losses["average"], name="loss of the average", unit="loss")
        others = (_reasoned(replace(self.against[name], unit="loss"), name) for name in order)
        return (average, *others)

    def sentences(self) -> tuple[str, ...]:
        """Whether the average helped, and which merges are ahead of it.

        Returns:
            A sentence on the average beside base and experts, one on the merges, and the notes.
        """
        others = {
            name: replace(e, value=-e.value, skewness=-e.skewness)
            for name, e in self.against.items()
            if name in self.networks
        }
        lost = [f"{name} could not be made: {why}" for name, why in self.failed.items()]
        start = _helped("The average", self.losses["average"], others)
        return (*start, *self._ahead(), *lost, *self.notes)

    def _ahead(self) -> tuple[str, ...]:
        merges = {n: e for n, e in self.against.items() if n not in self.networks}
        ahead = [n for n, e in merges.items() if _verdict(e) == "below that of"]
        if ahead:
            return (f"Ahead of the plain average by more than the error: {', '.join(ahead)}.",)
        return (
            ("No merge is ahead of the plain average by more than the error.",)
            if merges
            else ()
        )

    def figures(self) -> tuple[Figure, ...]:
        """Differences of the loss to the plain average, the best first.

        Returns:
            One figure.
        """
        order = sorted(self.against, key=lambda name: self.against[name].value)
        shown = {name: self.against[name] for name in order}
        return (_differences("Loss minus that of the plain average", shown),)


def _differences(title: str, found: Mapping[str, Estimate]) -> Figure:
    from lossatlas.plots.chart import backends
    from lossatlas.plots.paths import Difference, difference_chart

    shown = [Difference(name, e.value, *e.interval()) for name, e in found.items()]
    return Figure(
        "differences",
        title,
        *backends(lambda: difference_chart(shown, title, "difference of losses")),
        caption="With 95 % intervals of paired differences; left of 0 is better.",
        alt="Intervals of differences of losses, one a row.",
    )


# Equal to rounding: a difference without an error, and with a reason.
def _is_same(found: Estimate) -> bool:
    return found.value == 0 and found.stderr == 0


def _reasoned(found: Estimate, name: str) -> Estimate:
    if _is_same(found):
        return replace(found, stderr=math.nan, why_no_error=EQUAL, name=name)
    return replace(found, name=name)


def _difference(found: Estimate) -> str:
    return ", to rounding" if _is_same(found) else f" (difference {found})"


def _verdict(found: Estimate) -> str:
    if _is_same(found):
        return "equal to that of"
    low, high = found.interval()
    if math.isnan(low):
        return "not compared with an error to that of"
    if high < 0:
        return "below that of"
    return "above that of" if low > 0 else "not told apart from that of"


# The verdict says which is lower; the sign would only repeat it.
def _size(found: Estimate) -> Estimate:
    return replace(found, value=abs(found.value))


# How one network stands beside others; `against` are its losses minus theirs.
def _helped(name: str, loss: Estimate, against: Mapping[str, Estimate]) -> tuple[str, ...]:
    verdicts = {
        "below that of": "is better than",
        "above that of": "is worse than",
        "not told apart from that of": "is not told apart from",
        "equal to that of": "has, to rounding, the loss of",
        "not compared with an error to that of": "is not compared with an error to",
    }
    plain, parts = {"below that of", "equal to that of"}, []
    for verdict, said in verdicts.items():
        names = [
            ("the base" if other == "base" else other)
            + (f" (difference {_number(_size(found))})" if verdict not in plain else "")
            for other, found in against.items()
            if _verdict(found) == verdict
        ]
        if names:
            *first, last = names
            parts.append(f"{said} {', '.join(first)}{' and ' if first else ''}{last}")
    return (f"{name} ({_number(loss)}) {'; it '.join(parts)}.",) if parts else ()


def _number(found: Estimate) -> str:
    return " ".join(filter(None, found.texts))


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
    job = _Job(
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
    return Merge(
        params=made.params,
        method=described(method, options),
        loss=judged.mean(sums, "loss", "loss"),
        against=against,
        conflicts=_conflicts(job.deltas),
        coefficients=made.coefficients,
        notes=job.notes,
    )


def compare_merges(
    objective: Objective,
    base: Params,
    *experts: Params,
    methods: Sequence[str] = ("average", "task_arithmetic:scale=0.7", "ties", "dare", "search"),
    importances: Sequence[Params] = (),
    objectives: Sequence[Objective] = (),
    tune: Objective | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    names: Sequence[str] | None = None,
) -> MergeComparison:
    """Merge the same networks in several ways and compare them on the same examples.

    Args:
        objective: as for `merge`.
        base: as for `merge`.
        *experts: as for `merge`.
        methods: names with options, as in "ties:density=0.3,scale=1".
        importances: as for `merge`.
        objectives: as for `merge`.
        tune: as for `merge`; where "search" is among the methods all are judged on the rest.
        seed: as for `merge`.
        resume: a file that losses of finished merges go to; the same call goes on from there
            after a kill, with the same bits.
        progress: called with how many networks were measured, and of how many.
        names: as for `merge`.

    Returns:
        Losses of all merges and networks, and paired differences to the plain average.

    Raises:
        ArgumentError: no expert, or a method that cannot be read.
        NonFiniteError: a checkpoint is not finite.
        ResumeError: `resume` belongs to another run, or cannot be written.
        StructureError: names or shapes differ.
        UnknownNameError: an unknown method or option.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.ones(9, 1), torch.ones(9, 1))] * 2
        >>> objective = la.Objective(model, la.supervised(F.mse_loss), batches)
        >>> base, one, two = ({"weight": torch.tensor([[w]])} for w in (0.0, 0.5, 0.7))
        >>> found = compare_merges(objective, base, one, two, methods=["average", "search"])
        >>> found.losses["search"].value < found.losses["average"].value
        True
    """
    chosen = [parsed(spec) for spec in methods]
    job = _Job(
        objective,
        base,
        experts,
        importances=importances,
        objectives=objectives,
        tune=tune,
        seed=seed,
        names=names,
    )
    if SEARCH in {name for name, _ in chosen}:
        job.split()
    settings = {"methods": [described(*method) for method in chosen], "seed": seed}
    judges = [job.judge, *objectives, *([tune] if tune is not None else [])]
    points = [*job.networks.values(), *importances]
    titles = {described(*method): method for method in chosen}
    titles.pop("average", None)
    with Unfinished(resume, identity("merges", judges, points, settings)) as kept:
        table = _Table(job, kept, progress, len(titles) + len(job.networks))
        for title, (name, options) in titles.items():
            table.add_merge(title, name, options)
        for name, params in job.networks.items():
            table.add(name, partial(dict, params))
    return table.found()


class _Table:
    """Losses of merges and networks beside that of the average."""

    def __init__(
        self,
        job: "_Job",
        kept: Unfinished,
        progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        self._job, self._kept, self._progress, self._total = job, kept, progress, total
        self._judged = PairedLosses(job.judge, kept)
        self._average = self._judged.sums_once(
            "average", lambda: job.made("average", {}).params
        )
        self._losses = {"average": self._judged.mean(self._average)}
        self._against: dict[str, Estimate] = {}
        self._failed: dict[str, str] = {}
        self._coefficients: dict[str, tuple[float, ...]] = {}

    def add(self, title: str, params: Callable[[], Params]) -> None:
        sums = self._judged.sums_once(title, params)
        self._losses[title] = self._judged.mean(sums)
        self._against[title] = self._judged.difference(sums, self._average)
        if self._progress is not None:
            self._progress(len(self._against) + len(self._failed), self._total)

    def add_merge(self, title: str, name: str, options: Mapping[str, Any]) -> None:
        made = cache(partial(self._job.made, name, options))
        try:
            self.add(title, lambda: made().params)
            shares = self._kept.once(
                f"shares of {title}", lambda: np.array([[0.0, *made().coefficients]])
            )
        except ArgumentError as error:
            self._failed[title] = str(error)
            return
        if shares.shape[1] > 1:
            self._coefficients[title] = tuple(map(float, shares[0, 1:]))

    def found(self) -> MergeComparison:
        return MergeComparison(
            self._losses,
            self._against,
            self._coefficients,
            self._failed,
            self._job.notes,
            tuple(self._job.networks),
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
    said = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}:{said}" if said else name


@dataclass(frozen=True, eq=False)
class _Made:
    params: dict[str, Tensor]
    coefficients: tuple[float, ...] = ()


# Numbers of a tensor that are compared at once.
_PIECE = 1 << 20
_ALONE = (
    "There is one expert: the first network counts as its base. To average two networks use "
    "soup(objective, a, b)."
)


class _Job:
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
            raise ArgumentError("`experts` must hold at least one fine-tuned network.")
        if objectives and len(objectives) != len(experts):
            raise ArgumentError(
                f"`objectives` must be one an expert ({len(experts)}); got {len(objectives)}."
            )
        self.names = _called(names, len(experts))
        named = {"base": base} | dict(zip(self.names, experts, strict=True))
        self.networks = {}
        for name, params in named.items():
            check_finite(name, params)
            state = objective.split(params)
            self.networks[name] = dict(state.params)
            check_same_structure(base=self.networks["base"], **{"expert": dict(state.params)})
        self.base = self.networks["base"]
        self.deltas = [
            {n: self.networks[name][n].float() - v.float() for n, v in self.base.items()}
            for name in named
            if name != "base"
        ]
        self.judge, self._tune, self._seed = objective, tune, seed
        self._given, self._objectives = importances, objectives
        self._grams: list[Change] = []
        self.notes: tuple[str, ...] = (_ALONE,) if len(experts) == 1 else ()

    def made(self, name: str, options: Mapping[str, Any]) -> _Made:
        if name == SEARCH:
            return self._searched(options)
        change = changed(name, self.deltas, self._inputs(name), options)
        return _Made(self._moved(change), _coefficients(name, options, len(self.deltas)))

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

    def _moved(self, change: Change) -> dict[str, Tensor]:
        # Zero changes give the base bit for bit.
        return {
            n: torch.where(change[n] == 0, v, (v.float() + change[n]).to(v.dtype))
            for n, v in self.base.items()
        }

    def _inputs(self, name: str) -> Inputs:
        importances, grams = self._given, list[Change]()
        if name in {"fisher", "ota"} and not importances and self._objectives:
            importances = self._given = [self._importance(k) for k in range(len(self.deltas))]
        if name == "regmean" and self._objectives:
            self._grams = self._grams or [self._gram(k) for k in range(len(self.deltas))]
            grams = self._grams
        return Inputs(self.base, importances, grams, self._seed)

    def _expert(self, number: int) -> tuple[Objective, dict[str, Tensor]]:
        return self._objectives[number], self.networks[self.names[number]]

    def _importance(self, number: int) -> Change:
        return squared_gradients(*self._expert(number))

    def _gram(self, number: int) -> Change:
        objective, params = self._expert(number)
        return _input_grams(objective, params)

    def _searched(self, options: Mapping[str, Any]) -> _Made:
        if options:
            raise ArgumentError(f"'search' takes no options; got {', '.join(options)}.")
        self.split()
        tune = self._tune
        assert tune is not None

        def loss(shares: Array) -> float:
            value = tune.value(self._moved(self._combined(shares)))
            return value if math.isfinite(value) else 1e30

        count = len(self.deltas)
        start = np.full(count, 1 / count)
        few = count < 4
        steps = {"xatol": 0.01, "fatol": 1e-7} if few else {"xtol": 0.01, "ftol": 1e-7}
        found = scipy.optimize.minimize(
            loss,
            start,
            method="Nelder-Mead" if few else "Powell",
            options=steps | {"maxfev": 60 * count},
        )
        shares = found.x if found.fun < loss(start) else start
        return _Made(self._moved(self._combined(shares)), tuple(map(float, shares)))

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
    called: list[str] = []
    for name, number in zip(map(str, names), numbered, strict=True):
        taken = name in {"base", SEARCH, *METHODS, *called}
        called.append(f"{name} ({number})" if taken else name)
    return called


def _coefficients(name: str, options: Mapping[str, Any], count: int) -> tuple[float, ...]:
    if name == "average":
        return (1 / count,) * count
    if name == "task_arithmetic":
        return (float(options.get("scale", options_of(name)["scale"])),) * count
    return ()


def _input_grams(objective: Objective, params: Params) -> Change:
    """Sums of outer products of the inputs of every linear layer whose weight moves."""
    grams: Change = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            rows = args[0].detach().flatten(0, -2).double()
            own = rows.T @ rows
            grams[name] = grams[name] + own if name in grams else own

        return note

    named = [(f"{path}.weight".lstrip("."), m) for path, m in objective.model.named_modules()]
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
    found = []
    for name in deltas[0]:
        rows = [delta[name].flatten() for delta in deltas]
        if len(rows) < 2 or not any(bool(row.any()) for row in rows):
            continue
        differ, products = 0, np.zeros((len(rows), len(rows)))
        # Piece by piece, in float64: the whole would take several copies in twice the width.
        for parts in zip(*(torch.split(row, _PIECE) for row in rows), strict=True):
            stack = torch.stack(parts).double()
            differ += int(((stack > 0).any(0) & (stack < 0).any(0)).sum())
            products += (stack @ stack.T).cpu().numpy()
        lengths = np.sqrt(products.diagonal()).clip(1e-12)
        cosines = products / np.outer(lengths, lengths)
        mean = float((cosines.sum() - cosines.trace()) / (len(rows) * (len(rows) - 1)))
        found.append(Conflict(name, differ / rows[0].numel(), mean))
    return tuple(found)


@result("soup", references=(_SOUP,))
class Soup(Result):
    """An average of checkpoints.

    Attributes:
        params: the weights.
        kept: which checkpoints it is the mean of, by number from 1.
        loss: its loss on the data that chose it.
        against: "best single" and "all" -> difference of losses with the paired error.
    """

    params: Mapping[str, Tensor]
    kept: tuple[int, ...]
    loss: Estimate = quantity("loss")
    against: Mapping[str, Estimate]

    def estimates(self) -> tuple[Estimate, ...]:
        """The loss and the paired differences.

        Returns:
            Three estimates.
        """
        return (self.loss, *(_reasoned(e, f"minus {n}") for n, e in self.against.items()))

    def sentences(self) -> tuple[str, ...]:
        """What the average is made of, and whether it helped.

        Returns:
            One sentence.
        """
        found = self.against["best single"]
        return (
            f"The loss of the mean of {len(self.kept)} checkpoints "
            f"({', '.join(map(str, self.kept))}) is {_verdict(found)} the best single one"
            f"{_difference(found)}.",
        )


def soup(objective: Objective, *checkpoints: Params, greedy: bool = False) -> Soup:
    """Average checkpoints of one model.

    Args:
        objective: model, loss and held-out data.
        *checkpoints: two or more points of parameter space.
        greedy: take checkpoints in the order of their losses, and keep one only if the loss of
            the average does not rise; False averages all. A greedy soup is chosen on the data
            it is measured on: its loss is a little too good.

    Returns:
        The average, with differences to the best checkpoint and to the mean of all.

    Raises:
        ArgumentError: fewer than two checkpoints.
        NonFiniteError: a checkpoint is not finite.
        StructureError: names or shapes differ.

    Source: Wortsman et al., arXiv:2203.05482.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batch = torch.ones(9, 1), torch.ones(9, 1)
        >>> objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
        >>> points = [{"weight": torch.tensor([[w]])} for w in (0.5, 1.5, 9.0)]
        >>> soup(objective, *points, greedy=True).kept
        (1, 2)
    """
    require_memory(objective, "soup")
    if len(checkpoints) < 2:
        raise ArgumentError(f"`checkpoints` must be two or more; got {len(checkpoints)}.")
    points = []
    for number, point in enumerate(checkpoints, 1):
        check_finite(f"checkpoint {number}", point)
        points.append(dict(objective.split(point).params))
    judged = PairedLosses(objective)
    single = [judged.sums(point) for point in points]
    order = sorted(range(len(points)), key=lambda k: single[k].sum())
    kept, sums = list(range(len(points))), judged.sums(_mean(points))
    everything = sums
    if greedy:
        kept, sums = [order[0]], single[order[0]]
        for k in order[1:]:
            trial = judged.sums(_mean([points[j] for j in (*kept, k)]))
            if trial.sum() <= sums.sum():
                kept, sums = [*kept, k], trial
    return Soup(
        params=_mean([points[k] for k in kept]),
        kept=tuple(sorted(k + 1 for k in kept)),
        loss=judged.mean(sums, "loss", "loss"),
        against={
            "best single": judged.difference(sums, single[order[0]]),
            "all": judged.difference(sums, everything),
        },
    )


def _mean(points: Sequence[Params]) -> dict[str, Tensor]:
    return blend(points, [1 / len(points)] * len(points))
