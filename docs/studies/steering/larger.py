"""Recipes on a ResNet-20, a small ViT and a character transformer.

`python docs/studies/steering/larger.py [MODEL ...]` does what `lossatlas train --compare
RECIPES --model MODEL --lr RATES --steps STEPS --seeds 5` does; writes larger.json. Rates are
added until no chosen one lies at an end of its grid. What is done is kept in parts/.
"""

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lossatlas.recipes import Runs, TrainingSetup, train_recipes
from lossatlas.training import load_dataset
from lossatlas.training.dataset import Dataset

HERE = Path(__file__).parent
SHARED = HERE.parents[3] / "shared" / "data"
RECIPES = (
    "adamw+cosine",
    "schedulefree",
    "adamw+interpolated+bank",
    "adamw+growth+interpolated+bank",
)
GROWN = "adamw+growth+interpolated+bank"
SEEDS = 5
# Powers of the root of ten to begin with: 1e-3, 3e-3, 1e-2.
POWERS = (-6, -5, -4)
# Growth leaves the base rate behind.
GROWN_POWER = -5


@dataclass(frozen=True)
class Model:
    """What is trained.

    Attributes:
        spec: as for `lossatlas train --model`.
        steps: updates.
        measure: "accuracy" or "loss".
    """

    spec: str
    steps: int
    measure: str = "test accuracy"


MODELS = {
    "ResNet-20, digits": Model("resnet20", 60),
    "ViT, digits": Model("vit(patch=2,layers=2,dim=32,heads=2)", 400),
    "char-transformer, Shakespeare": Model(
        "chargpt(width=32,layers=2,heads=2)", 200, "test loss"
    ),
}


def setup_of(name: str) -> TrainingSetup:
    """Data and model.

    Args:
        name: of `MODELS`.

    Returns:
        The setup.
    """
    model = MODELS[name]
    if name.startswith("char"):
        data = load_dataset(f"text:{SHARED}/tinyshakespeare/input.txt", block=32)
        parts = [_rows(data, *ends) for ends in ((0, 4000), (6000, 6200), (8000, 8400))]
        return TrainingSetup(*parts, model=model.spec, batch_size=16, decay=0.01)
    data = load_dataset("digits", normalize="standardized")
    parts = [_rows(data, *ends) for ends in ((0, 900), (900, 1300), (1300, len(data)))]
    return TrainingSetup(*parts, model=model.spec, batch_size=32)


def compare(name: str, parts: Path) -> dict[str, Any]:
    """All recipes on one model.

    Args:
        name: of `MODELS`.
        parts: folder of what is done.

    Returns:
        recipe -> rates tried, the chosen one, scores of the seeds, difference to the first.
    """
    model, setup = MODELS[name], setup_of(name)
    powers = {recipe: set(POWERS) for recipe in RECIPES} | {GROWN: {GROWN_POWER}}
    while True:
        runs = train_recipes(
            setup,
            RECIPES,
            rates=_rates(set().union(*powers.values())),
            seeds=SEEDS,
            steps=model.steps,
            only={recipe: _rates(chosen) for recipe, chosen in powers.items()},
            resume=parts / f"larger-{model.spec.split('(')[0]}.sqlite",
        )
        wider = {recipe: _outward(powers[recipe], runs.best_rate(recipe)) for recipe in RECIPES}
        wider[GROWN] = powers[GROWN]
        if wider == powers:
            return _read(model, runs, powers)
        powers = wider


def _rates(powers: set[int]) -> list[float]:
    return [float(f"{10 ** (power / 2):.1g}") for power in sorted(powers)]


def _outward(powers: set[int], best: float) -> set[int]:
    # One rate further where the best is the last one.
    power = round(2 * math.log10(best))
    return powers | {power - 1, power + 1}


def _read(model: Model, runs: Runs, powers: dict[str, set[int]]) -> dict[str, Any]:
    found = {}
    for recipe in RECIPES:
        gap = runs.difference(recipe, model.measure)
        found[recipe] = {
            "rates": _rates(powers[recipe]),
            "lr": runs.best_rate(recipe),
            "scores": [float(f"{v:.5g}") for v in runs.tuned(recipe, model.measure)],
            "gap": None if gap is None else [gap.value, *gap.interval()],
        }
    return {"steps": model.steps, "measure": model.measure, "recipes": found}


def _rows(data: Dataset, start: int, stop: int) -> Dataset:
    return replace(data, inputs=data.inputs[start:stop], targets=data.targets[start:stop])


def main() -> None:
    """Compare, and keep what was found."""
    kept, parts = HERE / "larger.json", HERE / "parts"
    parts.mkdir(exist_ok=True)
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for name in sys.argv[1:] or MODELS:
        found[name] = compare(name, parts)
        kept.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
