"""A learning rate against the edge of stability, for one optimizer or several."""

from collections.abc import Callable
from dataclasses import fields, replace

from lossatlas.curvature.assumed_optimizers import SET_SIZE, plain_sgd, warm_adam
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.optimizer_steps import OptimizerLike, has_second_moments
from lossatlas.curvature.stability import (
    CANNOT_BE_JUDGED,
    EDGE_OF_STABILITY,
    Stability,
    edge_figure,
    edge_of_stability,
)
from lossatlas.errors import ArgumentError
from lossatlas.result import Estimate, Figure, Result, result

_NO_RATE = (
    "no learning rate was given; pass lr= or optimizer= (--lr 0.1 on the command line) to "
    "compare it with the curvature"
)
_CONVERGED = (
    "The number for Adam assumes that its second moments have converged at these weights; at "
    "the start of a training steps may diverge at a rate below this edge."
)


@result("learning_rate", references=(EDGE_OF_STABILITY,))
class LearningRate(Result):
    """A learning rate against the edge of stability, for several optimizers.

    Attributes:
        descent: for SGD, without momentum where none was stated.
        adam: on Adam's scale, where no momentum of SGD was stated; second moments of sets of at
            most 32 examples at these weights, as if they had converged there.
        optimizer: for an optimizer with its state.
    """

    descent: Stability | None = None
    adam: Stability | None = None
    optimizer: Stability | None = None

    @property
    def _measured(self) -> dict[str, Stability]:
        stabilities = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in stabilities.items() if value is not None}

    def estimates(self) -> tuple[Estimate, ...]:
        """One number for each optimizer."""
        stabilities = self._measured
        note = f"; second moments of sets of at most {SET_SIZE} examples, at these weights"
        estimates = []
        for key, stability in stabilities.items():
            ending = f", {_optimizer_name(key, stability)}" if len(stabilities) > 1 else ""
            meaning = note if key == "adam" else ""
            estimates += [
                replace(each, name=each.name + ending, meaning=each.meaning + meaning)
                for each in stability.estimates()
            ]
        return tuple(estimates)

    def sentences(self) -> tuple[str, ...]:
        """On which side of the edge each is."""
        stabilities = self._measured
        sentences = [
            each.sentence(_optimizer_name(key, each)) for key, each in stabilities.items()
        ]
        remarks = dict.fromkeys(
            text for each in stabilities.values() for text in each.remarks()
        )
        return (*sentences, *remarks, *((_CONVERGED,) if self.adam is not None else ()))

    def answer(self) -> tuple[str, str]:
        """Whether the rate is too high, for the given optimizer, else for each measured one."""
        if self.optimizer is not None:
            return self.optimizer.answer()
        stabilities = self._measured
        if len(stabilities) == 1:
            ((key, stability),) = stabilities.items()
            return stability.answer("Adam" if key == "adam" else None)
        if stabilities and not any(each.is_judged for each in stabilities.values()):
            return CANNOT_BE_JUDGED, ""
        # Which of them takes the steps is not known: a mark only where they agree.
        marks = {stability.answer()[1] for stability in stabilities.values()}
        answers = [
            f"{_optimizer_name(key, stability)}: {stability.verdict}"
            for key, stability in stabilities.items()
        ]
        return "; ".join(answers), marks.pop() if len(marks) == 1 else ""

    def figures(self) -> tuple[Figure, ...]:
        """All ratios to the edge in one picture."""
        stabilities = {_optimizer_name(key, each): each for key, each in self._measured.items()}
        return (edge_figure(stabilities),) if stabilities else ()


def _optimizer_name(key: str, stability: Stability) -> str:
    if key == "optimizer":
        return f"the given optimizer ({stability.optimizer})"
    return "Adam" if key == "adam" else stability.optimizer


@instrument(
    "stability",
    title="Edge of stability",
    question="Is my learning rate too high?",
    group="steps",
    cost="40 products, one pass of gradients",
    needs="a learning rate or an optimizer; 8 examples",
    references=(EDGE_OF_STABILITY,),
    reads=LearningRate,
    headline="learning rate x curvature",
    place=1,
)
def survey_stability(context: Context) -> Parts:
    """The learning rate against the edge of stability."""
    objective, lr, optimizer = context.objective, context.lr, context.optimizer

    def edge(steps: Callable[[], OptimizerLike]) -> Callable[[], Stability]:
        return lambda: edge_of_stability(objective, steps(), seed=context.seed)

    parts: Parts = {}
    if lr is not None:
        parts["descent"] = edge(lambda: plain_sgd(objective, lr, context.momentum or 0.0))
        # Whoever states a momentum trains with SGD.
        is_sgd = context.momentum is not None
        if not is_sgd and (optimizer is None or not has_second_moments(optimizer)):
            parts["adam"] = edge(lambda: warm_adam(objective, lr))
    if optimizer is not None:
        parts["optimizer"] = edge(lambda: optimizer)
    return parts or {"descent": _without_rate}


def _without_rate() -> Stability:
    raise ArgumentError(_NO_RATE)
