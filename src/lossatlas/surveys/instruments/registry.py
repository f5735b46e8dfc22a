"""The registry: which instruments there are, in the order of the report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.surveys.context import Context, Parts
from lossatlas.surveys.instrument_result import InstrumentResult, Quantity
from lossatlas.surveys.instruments import features, heights, learning, spectra, steps


@dataclass(frozen=True)
class Instrument:
    """One instrument of a survey.

    Attributes:
        name: what a user calls it.
        title: what it measures, as a heading.
        measure: site -> its parts, each a call without arguments; a part that cannot be
            measured raises an error of `lossatlas.errors`.
        read: the results of those parts that could be measured -> the numbers in them.
    """

    name: str
    title: str
    measure: Callable[[Context], Parts]
    read: Callable[[Mapping[str, Any]], tuple[Quantity, ...]]

    def quantities(self, found: InstrumentResult) -> tuple[Quantity, ...]:
        """The numbers of a finding of this instrument.

        Args:
            found: the finding.

        Returns:
            The numbers; none where nothing could be measured.
        """
        return self.read(found.results) if found.results else ()


INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument("curvature", "Curvature", spectra.measure_curvature, spectra.read_curvature),
    Instrument("criteria", "Hessian criteria", spectra.measure_criteria, spectra.read_criteria),
    Instrument("layers", "Layer by layer", spectra.measure_layers, spectra.read_layers),
    Instrument("classes", "Class by class", spectra.measure_classes, spectra.read_classes),
    Instrument("stability", "Edge of stability", steps.measure_stability, steps.read_stability),
    Instrument("gradient", "Gradient and noise", steps.measure_gradient, steps.read_gradient),
    Instrument("sharpness", "Sharpness", heights.measure_sharpness, heights.read_sharpness),
    Instrument(
        "flatness", "Relative flatness", heights.measure_flatness, heights.read_flatness
    ),
    Instrument("roughness", "Roughness", heights.measure_roughness, heights.read_roughness),
    Instrument("samples", "Sample size", heights.measure_samples, heights.read_samples),
    Instrument(
        "interference",
        "Zero-sum learning",
        learning.measure_interference,
        learning.read_interference,
    ),
    Instrument(
        "plasticity", "Plasticity", learning.measure_plasticity, learning.read_plasticity
    ),
    Instrument("spikes", "Spike risk", learning.measure_spikes, learning.read_spikes),
    Instrument(
        "representations",
        "Representations",
        features.measure_representations,
        features.read_representations,
    ),
    Instrument(
        "collapse", "Neural collapse", features.measure_collapse, features.read_collapse
    ),
    Instrument(
        "similarity",
        "Likeness to the start",
        features.measure_similarity,
        features.read_similarity,
    ),
)
_BY_NAME = {instrument.name: instrument for instrument in INSTRUMENTS}


def named(name: str) -> Instrument:
    """An instrument by its name.

    Args:
        name: as in `INSTRUMENTS`.

    Returns:
        The instrument.

    Raises:
        UnknownNameError: there is none; the message gives the nearest.
    """
    check_one_of("instruments", name, _BY_NAME)
    return _BY_NAME[name]


def chosen(asked: str | Sequence[str], *, curvature: bool = False) -> tuple[Instrument, ...]:
    """The instruments that a user asks for, in the order of the registry.

    Args:
        asked: names, in a sequence or with commas between them; or "all". Repetitions count
            once.
        curvature: asks for "curvature" too.

    Returns:
        The instruments.

    Raises:
        ArgumentError: not names.
        UnknownNameError: an unknown name; the message gives the nearest.
    """
    given = asked.split(",") if isinstance(asked, str) else asked
    if not isinstance(given, Iterable) or not all(isinstance(name, str) for name in given):
        raise ArgumentError(f"`instruments` must be names, or 'all'; got {asked!r}.")
    names = [name.strip() for name in given if name.strip()]
    if "all" in names:
        return INSTRUMENTS
    for name in names:
        check_one_of("instruments", name, ("all", *_BY_NAME))
    wanted = {*names, "curvature"} if curvature else set(names)
    return tuple(instrument for instrument in INSTRUMENTS if instrument.name in wanted)
