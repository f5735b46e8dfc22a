"""Instruments: what a survey can measure, what each is given, and what it gives back.

An instrument is one file: a computation, its result, and one function that `instrument`
registers. Surveys, the command line, pages and the documentation read the registry.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from torch.optim import Optimizer

from lossatlas.checks import check_one_of, check_text
from lossatlas.errors import ArgumentError, AtlasError
from lossatlas.linalg.params import Params, size
from lossatlas.objective import Objective
from lossatlas.objective.user_code import wrap_errors
from lossatlas.result import Estimate, Figure, Reference, Result, Table, result

if TYPE_CHECKING:
    from lossatlas.curvature.activations import Head
    from lossatlas.curvature.spectrum import Spectrum

ENTRY_POINTS = "lossatlas.instruments"
Parts = dict[str, Callable[[], Any]]
Measure = TypeVar("Measure", bound=Callable[["Context"], Parts])
Stage = Callable[[str, int, int], None]

_OTHERS_GO_ON = "the other instruments are not affected."
_NO_MEMORY = (
    "the memory did not suffice; take smaller batches or fewer parameters (`params=`), and run "
    "it again with the same `resume` file"
)


@dataclass(frozen=True)
class Group:
    """Instruments that belong together: one section of a page.

    Attributes:
        name: a short word.
        title: heading.
        lead: what its instruments look at, in a sentence or two.
    """

    name: str
    title: str
    lead: str


GROUPS = (
    Group(
        "curvature",
        "Curvature",
        "The Hessian of the loss at the weights. Its largest eigenvalue belongs to the "
        "sharpest direction; where eigenvalues are negative the loss falls on both sides.",
    ),
    Group(
        "groups",
        "Layer by layer, class by class",
        "The largest eigenvalue says how sharp a part is. A lowest one that is negative and "
        "large beside it means that the part is at a saddle.",
    ),
    Group(
        "steps",
        "Steps from here",
        "A step is stable along a direction while learning rate x curvature stays below the "
        "edge of stability; a gradient is worth following while it exceeds its noise.",
    ),
    Group(
        "sharpness",
        "Around the weights",
        "What a small move in any direction costs, and how many examples these numbers need.",
    ),
    Group(
        "learning",
        "Learning",
        "Whether examples pull together, what can still be learned, what could blow up.",
    ),
    Group("features", "Features", "The inputs of the last linear layer, for every example."),
    Group("other", "Further instruments", ""),
)


@dataclass(eq=False)
class Context:
    """Everything that an instrument of a survey is given.

    Attributes:
        objective: model, loss, batches, at the weights that are surveyed.
        seed: of all random draws.
        lr: the learning rate to judge, or None.
        optimizer: the optimizer that leads on from here, or None.
        momentum: of the SGD that `lr` belongs to; None where no optimizer was named.
        checkpoints: points of the training that led here, in order.
        findings: what was found before, by the name of the instrument.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import Context
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> Context(la.Objective(torch.nn.Linear(2, 1), loss, [batch]), lr=0.1).lr
        0.1
    """

    objective: Objective
    seed: int = 0
    lr: float | None = None
    optimizer: Optimizer | None = None
    checkpoints: Sequence[Params] = ()
    findings: Mapping[str, "InstrumentResult"] = field(default_factory=dict)
    momentum: float | None = None

    @cached_property
    def spectrum(self) -> "Spectrum":
        """Both ends of the Hessian's spectrum with its density, measured once."""
        from lossatlas.curvature.spectrum import Spectrum, spectrum

        for finding in self.findings.values():
            for part in finding.results.values():
                if isinstance(part, Spectrum) and part.density is not None:
                    return part
        count = size(self.objective.params)
        return spectrum(self.objective, min(10, count), min(2, count), seed=self.seed)

    @cached_property
    def head(self) -> "Head":
        """The last linear layer and its inputs, at the weights."""
        from lossatlas.curvature.activations import read_head

        return read_head(self.objective)


@result("instrument")
class InstrumentResult(Result):
    """The results of one instrument.

    Attributes:
        instrument: its name.
        results: name of a part -> its result, as the function of the instrument gave it.
        missing: name of a part -> why it could not be measured, a sentence.
        seconds: wall time; does not count for equality.
        is_final: False where memory was short: another try may find more.
        checked: what the derivatives were compared with, and how closely they agree.
    """

    instrument: str
    results: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)
    is_final: bool = True
    checked: tuple[str, ...] = ()

    @property
    def why_not(self) -> str:
        """Why there is no result at all; empty where there is one."""
        return "" if self.results else "; ".join(dict.fromkeys(self.missing.values()))

    @property
    def about(self) -> "Instrument":
        """The instrument; a stand-in of that name where it is not installed."""
        name = self.instrument
        return _registered().get(name) or Instrument(name, name, "", "other", "", "", (), _none)

    def estimates(self) -> tuple[Estimate, ...]:
        """The numbers of all parts, each with its error or the reason why it has none."""
        return estimates_of(self._parts())

    def sentences(self) -> tuple[str, ...]:
        """What its parts say in words."""
        return tuple(sentence for part in self._speaking() for sentence in part.sentences())

    def figures(self) -> tuple[Figure, ...]:
        """The pictures of its parts."""
        return tuple(figure for part in self._speaking() for figure in part.figures())

    def tables(self) -> tuple[Table, ...]:
        """The tables of its parts."""
        return tuple(table for part in self._speaking() for table in part.tables())

    def details(self) -> dict[str, Any]:
        """What is missing, part -> reason, and how long it took."""
        return {"missing": dict(self.missing), "seconds": self.seconds}

    def rows(self) -> list[tuple[str, str, str]]:
        """The chief numbers as cells of a table, and the reasons for what is missing.

        Returns:
            See `Result.rows`.
        """
        title = self.about.title.lower()
        lost = [(title, "not measured", why) for why in dict.fromkeys(self.missing.values())]
        return super().rows() + lost

    def answer(self) -> tuple[str, str]:
        """What answers the question in its own words.

        Returns:
            The answer and its mark ("sure", "alarm" or ""); both empty where the first number
            of the instrument is the answer.
        """
        answers = (getattr(part, "answer", None) for part in self._speaking())
        answer: tuple[str, str] = next((each() for each in answers if each), ("", ""))
        return answer

    def _speaking(self) -> list[Result]:
        return [part for part in self._parts().values() if isinstance(part, Result)]

    def _parts(self) -> Mapping[str, Any]:
        reads = self.about.reads
        if reads is None or not self.results:
            return self.results
        return {self.instrument: reads(**self.results)}


def estimates_of(parts: Mapping[str, Any]) -> tuple[Estimate, ...]:
    """The numbers of results and estimates by name; whatever else is among them has none.

    Args:
        parts: name -> result or estimate.

    Returns:
        Estimates, each with a name, and an error or the reason why it has none.
    """
    estimates = [
        replace(each, name=each.name or name.replace("_", " "))
        for name, part in parts.items()
        if isinstance(part, Result | Estimate)
        for each in ((part,) if isinstance(part, Estimate) else part.estimates())
    ]
    return tuple(map(_reasoned, estimates))


def _reasoned(estimate: Estimate) -> Estimate:
    if not math.isfinite(estimate.error):
        return replace(
            estimate, why_no_error=estimate.why_no_error or "no spread could be taken"
        )
    if not estimate.reached:
        meaning = f"{estimate.meaning}; tolerance not reached".removeprefix("; ")
        return replace(estimate, meaning=meaning)
    return estimate


@dataclass(frozen=True)
class Instrument:
    """One instrument of a survey.

    Attributes:
        name: what a user calls it.
        title: what it measures, as a heading.
        question: what it answers, as a user asks it.
        group: where it belongs on a page, a name of `GROUPS`.
        cost: about what it costs, as in "252 losses".
        needs: what it needs beyond a model, a loss and batches; often empty.
        references: papers that it comes from.
        measure: context -> its parts, each a call without arguments that returns a `Result` or
            an `Estimate`; one that cannot be measured raises an error of `lossatlas.errors`.
        reads: a class of results that takes the parts by name, where they say more together.
        headline: a label under which a page shows its first number, and its sentences, at the
            head; empty for none.
        place: its place within the group.
    """

    name: str
    title: str
    question: str
    group: str
    cost: str
    needs: str
    references: tuple[Reference, ...]
    measure: Callable[[Context], Parts]
    reads: type[Result] | None = None
    headline: str = ""
    place: int = 100

    def run(self, context: Context) -> InstrumentResult:
        """Measure every part, or say why one could not be measured.

        Args:
            context: what is measured.

        Returns:
            What was found. Errors of an instrument, and of the code of a user within it, become
            reasons.
        """
        started = time.monotonic()
        run = _Run(self.name)
        for name, measure in (
            run.attempt(self.name, lambda: self.measure(context)) or {}
        ).items():
            measured = run.attempt(name, lambda call=measure: _checked(call()))  # type: ignore[misc]
            if measured is not None:
                run.results[name] = measured
        return InstrumentResult(
            self.name,
            run.results,
            run.missing,
            time.monotonic() - started,
            is_final=run.is_final,
            checked=context.objective.checked,
        )


class _Run:
    # What was measured so far, and the reasons for what was not.
    def __init__(self, name: str) -> None:
        self.name, self.is_final = name, True
        self.results: dict[str, Result | Estimate] = {}
        self.missing: dict[str, str] = {}

    def attempt(self, part: str, call: Callable[[], Any]) -> Any:
        try:
            with wrap_errors(f"`{self.name}`", _OTHERS_GO_ON):
                return call()
        except AtlasError as error:
            self.missing[part] = str(error)
        except (MemoryError, RuntimeError) as error:
            # `wrap_errors` lets nothing through but a lack of memory, of any kind.
            self.missing[part] = f"{_NO_MEMORY} ({_first_line(error)})"
            self.is_final = False
        return None


def _checked(measured: Any) -> Result | Estimate:
    if isinstance(measured, Estimate):
        return measured
    if not isinstance(measured, Result):
        raise ArgumentError(
            "a part of an instrument must be a Result or an Estimate; got "
            f"{type(measured).__name__}."
        )
    # What cannot be read is found here, and not where a page is written.
    measured.estimates(), measured.sentences()
    return measured


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_REGISTRY: dict[str, Instrument] = {}


def instrument(
    name: str,
    *,
    title: str,
    question: str,
    group: str = "other",
    cost: str = "",
    needs: str = "",
    references: tuple[Reference, ...] = (),
    reads: type[Result] | None = None,
    headline: str = "",
    place: int = 100,
) -> Callable[[Measure], Measure]:
    """Decorator that registers a function `Context -> Parts` as an instrument of surveys.

    Args:
        name: what a user calls it.
        title: see `Instrument`, as all others.
        question: as a user asks it.
        group: where it belongs.
        cost: about what it costs.
        needs: what it needs.
        references: papers.
        reads: a class that reads all parts together.
        headline: a label for its first number.
        place: its place within the group.

    Returns:
        The decorator; the function stays as it is.

    Raises:
        ArgumentError: another instrument has that name, or there is no such group.

    Examples:
        >>> from lossatlas.curvature import Context, instrument
        >>> from lossatlas.result import Estimate
        >>> @instrument("loss_twice", title="Twice the loss", question="How high is it twice?")
        ... def survey_loss_twice(context: Context):
        ...     return {"twice": lambda: Estimate(2 * context.objective.value())}
    """
    for argument, text in (("name", name), ("title", title), ("question", question)):
        check_text(argument, text)
    check_one_of("group", group, [each.name for each in GROUPS])

    def register(measure: Measure) -> Measure:
        other = _REGISTRY.get(name)
        if other is not None and other.measure.__module__ != measure.__module__:
            raise ArgumentError(
                f"two instruments are called '{name}' ({other.measure.__module__}, "
                f"{measure.__module__}); rename one of them."
            )
        _REGISTRY[name] = Instrument(
            name=name,
            title=title,
            question=question,
            group=group,
            cost=cost,
            needs=needs,
            references=references,
            measure=measure,
            reads=reads,
            headline=headline,
            place=place,
        )
        return measure

    return register


def instruments() -> tuple[Instrument, ...]:
    """All instruments, in the order of a page; those of other packages join by entry points.

    Returns:
        The instruments. One whose package cannot be loaded is there too: it measures nothing
        and says why.

    Examples:
        >>> from lossatlas.curvature import instruments
        >>> [each.name for each in instruments() if each.group == "curvature"]
        ['curvature', 'hessian_criteria', 'effective_parameters']
    """
    order = [group.name for group in GROUPS]
    return tuple(
        sorted(_registered().values(), key=lambda i: (order.index(i.group), i.place, i.name))
    )


def chosen(
    requested: str | Sequence[str], *, curvature: bool = False
) -> tuple[Instrument, ...]:
    """The instruments that a user asks for, in the order of the registry.

    Args:
        requested: names, in a sequence or with commas between them; or "all". Repetitions count
            once.
        curvature: asks for "curvature" too.

    Returns:
        The instruments.

    Raises:
        ArgumentError: not names.
        UnknownNameError: an unknown name; the message gives the nearest.

    Examples:
        >>> from lossatlas.curvature import chosen
        >>> [each.title for each in chosen("gradient")]
        ['Gradient and noise']
    """
    given = requested.split(",") if isinstance(requested, str) else requested
    if not isinstance(given, Iterable) or not all(isinstance(name, str) for name in given):
        raise ArgumentError(f"`instruments` must be names, or 'all'; got {requested!r}.")
    names = [name.strip() for name in given if name.strip()]
    every = instruments()
    if "all" in names:
        return every
    for name in names:
        check_one_of("instruments", name, ("all", *(each.name for each in every)))
    wanted = {*names, "curvature"} if curvature else set(names)
    return tuple(each for each in every if each.name in wanted)


def _none(context: Context) -> Parts:
    return {}


def _registered() -> dict[str, Instrument]:
    _load_plugins()
    return _REGISTRY


@cache
def _load_plugins() -> None:
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            _mark_broken(entry, error)


def _mark_broken(entry: EntryPoint, error: Exception) -> None:
    package = entry.dist.name if entry.dist else "a package"
    why = (
        f"the instrument '{entry.name}' of {package} could not be loaded "
        f"({type(error).__name__}: {_first_line(error)}); update or remove the package."
    )

    def measure(context: Context) -> Parts:
        raise ArgumentError(why)

    name = entry.name if entry.name not in _REGISTRY else f"{package}:{entry.name}"
    instrument(name, title=name, question="")(measure)
