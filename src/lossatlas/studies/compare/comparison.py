"""The comparison: recipes x rates x seeds, resumable, with paired intervals."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.studies.compare.statistics import Difference, paired
from lossatlas.studies.compare.trial import MEASURES, READINGS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        recipe: its name.
        lr: base rate.
        seed: of weights, order and dropout.
        horizons: the steps at which it is read.
    """

    recipe: str
    lr: float
    seed: int
    horizons: tuple[int, ...]

    @property
    def name(self) -> str:
        """What it is called in the ledger."""
        return json.dumps([self.recipe, self.lr, self.seed, list(self.horizons)])


@store.kind("recipes")
@dataclass(frozen=True, eq=False)
class Comparison:
    """What all trainings of a comparison gave.

    Attributes:
        recipes: their names, in the order asked for.
        horizons: steps.
        rates: base rates.
        seeds: as many as trainings of each kind.
        values: float64, shape (recipes, rates, seeds, horizons, readings, measures); NaN
            where there was no such training. Readings are `READINGS`, measures `MEASURES`.
        seconds: CPU seconds of training, shape (recipes, rates, seeds, horizons).
        final_rates: the rate at each horizon, likewise.
        provenance: settings and fingerprints.
    """

    recipes: tuple[str, ...]
    horizons: tuple[int, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    values: Array
    seconds: Array
    final_rates: Array
    provenance: store.Provenance = field(default_factory=store.Provenance)

    def of(self, recipe: str, reading: str, measure: str = "test accuracy") -> Array:
        """One measure of one reading of a recipe.

        Args:
            recipe: its name.
            reading: one of `READINGS`.
            measure: one of `MEASURES`.

        Returns:
            Shape (rates, seeds, horizons).

        Raises:
            UnknownNameError: an unknown name.
        """
        check_one_of("recipe", recipe, self.recipes)
        check_one_of("reading", reading, READINGS)
        check_one_of("measure", measure, MEASURES)
        which = (READINGS.index(reading), MEASURES.index(measure))
        return np.asarray(self.values[self.recipes.index(recipe)][..., which[0], which[1]])

    def best_rate(self, recipe: str, reading: str, horizon: int) -> int:
        """The index of the rate with the best mean accuracy on the validation examples.

        Args:
            recipe: its name.
            reading: one of `READINGS`.
            horizon: steps.

        Returns:
            An index into `rates`.
        """
        valid = self.of(recipe, reading, "valid accuracy")[..., self.horizons.index(horizon)]
        means = np.where(np.isnan(valid).all(1), -np.inf, np.nan_to_num(valid).mean(1))
        return int(means.argmax())

    def tuned(
        self, recipe: str, reading: str, horizon: int, measure: str = "test accuracy"
    ) -> Array:
        """A measure at the rate that the validation examples chose.

        Args:
            recipe: its name.
            reading: one of `READINGS`.
            horizon: steps.
            measure: one of `MEASURES`.

        Returns:
            Shape (seeds,).
        """
        rate = self.best_rate(recipe, reading, horizon)
        return np.asarray(
            self.of(recipe, reading, measure)[rate, :, self.horizons.index(horizon)]
        )

    def untuned(self, recipe: str, reading: str, horizon: int) -> Array:
        """Test accuracy averaged over all base rates, as for a user who has to guess.

        Args:
            recipe: its name; where it was run at one rate only, that one counts.
            reading: one of `READINGS`.
            horizon: steps.

        Returns:
            Shape (seeds,).
        """
        found = self.of(recipe, reading)[..., self.horizons.index(horizon)]
        return np.asarray(np.nanmean(found, axis=0))

    def difference(
        self,
        first: tuple[str, str],
        second: tuple[str, str],
        horizon: int,
        *,
        tuned: bool = True,
    ) -> Difference:
        """How much better one recipe does than another, seed by seed, in points.

        Args:
            first: (recipe, reading).
            second: (recipe, reading).
            horizon: steps.
            tuned: at the best rate of each; otherwise averaged over all rates.

        Returns:
            The paired difference of test accuracies, in per cent.
        """
        read: Callable[..., Array] = self.tuned if tuned else self.untuned
        a, b = (100 * read(*which, horizon) for which in (first, second))
        return paired(a, b)

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The comparison as labeled arrays.

        Returns:
            group name -> Dataset.
        """
        axes = ("recipe", "rate", "seed", "horizon")
        data = xr.Dataset(
            {
                "values": ((*axes, "reading", "measure"), self.values),
                "seconds": (axes, self.seconds),
                "final_rates": (axes, self.final_rates),
            },
            coords={
                "recipe": np.array(self.recipes, dtype=object),
                "rate": np.array(self.rates),
                "seed": np.array(self.seeds),
                "horizon": np.array(self.horizons),
                "reading": np.array(READINGS, dtype=object),
                "measure": np.array(MEASURES, dtype=object),
            },
            attrs={"provenance": self.provenance.to_json()},
        )
        return {"comparison": data}

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Comparison":
        """The inverse of `to_tree`.

        Args:
            tree: what it gave.

        Returns:
            An equal comparison.
        """
        data = tree["comparison"]
        values, seconds, final = (
            np.asarray(data[name].values) for name in ("values", "seconds", "final_rates")
        )
        return cls(
            tuple(map(str, data["recipe"].values)),
            tuple(map(int, data["horizon"].values)),
            tuple(map(float, data["rate"].values)),
            tuple(map(int, data["seed"].values)),
            values,
            seconds,
            final,
            store.Provenance.from_json(data.attrs["provenance"]),
        )
