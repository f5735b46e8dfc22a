"""Recipes on a ResNet-20, a small ViT and a character transformer.

`python docs/studies/steering/larger.py [MODEL ...]` does what `lossatlas train --compare
RECIPES --model MODEL --lr 0.003,0.01 --steps STEPS --seeds 5` does; writes larger.json.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lossatlas.recipes import TrainingSetup, train_recipes
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
RATES, SEEDS = (3e-3, 1e-2), 5
# Growth leaves the base rate behind.
ONLY = {"adamw+growth+interpolated+bank": [3e-3]}


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


def compare(name: str) -> dict[str, Any]:
    """All recipes on one model.

    Args:
        name: of `MODELS`.

    Returns:
        recipe -> chosen rate, scores of the seeds, difference to the first recipe.
    """
    model = MODELS[name]
    runs = train_recipes(
        setup_of(name), RECIPES, rates=RATES, seeds=SEEDS, steps=model.steps, only=ONLY
    )
    found = {}
    for recipe in RECIPES:
        gap = runs.difference(recipe, model.measure)
        found[recipe] = {
            "lr": runs.best_rate(recipe),
            "scores": [float(f"{v:.5g}") for v in runs.tuned(recipe, model.measure)],
            "gap": None if gap is None else [gap.value, *gap.interval()],
        }
    return {"steps": model.steps, "measure": model.measure, "recipes": found}


def _rows(data: Dataset, start: int, stop: int) -> Dataset:
    return replace(data, inputs=data.inputs[start:stop], targets=data.targets[start:stop])


def main() -> None:
    """Compare, and keep what was found."""
    kept = HERE / "larger.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for name in sys.argv[1:] or MODELS:
        found[name] = compare(name)
        kept.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
