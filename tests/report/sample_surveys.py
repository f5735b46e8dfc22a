"""Surveys of known functions, as `survey` would return them."""

import numpy as np

from lossatlas.io import Provenance
from lossatlas.result import Estimate
from lossatlas.surveys import Survey
from lossatlas.topology import merge_tree, persistence
from plots.sample_landscapes import (
    box_map,
    line_map,
    refined_map,
    sample_map,
    with_trajectory,
)

HOSTILE = (
    "</script><script>alert(1)</script>\"'{{ 7*7 }}%{x}$x$\u202e"
    "<img src=x onerror=alert(2)>&amp;"
)


def survey_of(landscape, title="sample", stderr=0.01, **changes):
    """What a survey of this map would be; the weights lie in its middle."""
    middle = tuple(size // 2 for size in landscape.values.shape)
    fields = {
        "title": title,
        "loss": Estimate(
            float(landscape.values[middle]), stderr, samples=512, sample_unit="examples"
        ),
        "landscape": landscape,
        "diagram": persistence(landscape),
        "tree": merge_tree(landscape),
        "metrics": {"accuracy": Estimate(0.913, 0.0125, samples=512, sample_unit="examples")},
        "seconds": 4.25,
        "notes": ("The span was chosen so that the loss rises tenfold.",),
        "provenance": Provenance(
            seed=7, settings={"points": 31, "span": [-1.6, 1.6]}, model="0f3a9c", data="77be01"
        ),
    }
    return Survey(**(fields | changes))


def himmelblau():
    return survey_of(with_trajectory(sample_map("himmelblau", 5, 61, noise=1.0)), "Himmelblau")


def double_well():
    return survey_of(with_trajectory(refined_map()), "Double well, refined where it is rough")


def noisy_bowl():
    return survey_of(with_trajectory(sample_map(noise=0.03, walls=True)), "A bowl with noise")


def line():
    return survey_of(line_map(walls=True), "A line")


def box():
    return survey_of(box_map(), "A box")


def hostile():
    land = with_trajectory(sample_map(noise=0.02, labels=(HOSTILE, "b<b>c</b>")))
    way = land.landmarks["trajectory"]
    from dataclasses import replace

    name = "trajectory " + HOSTILE
    land = replace(
        land,
        landmarks={name: way},
        landmark_residuals={name: np.zeros(len(way))},
        landmark_values={name: np.ones(len(way))},
        unit=HOSTILE,
        engine=HOSTILE,
        notes=(HOSTILE,),
        metrics={HOSTILE: land.values},
    )
    record = Provenance(settings={HOSTILE: HOSTILE}, model=HOSTILE, data=HOSTILE)
    metrics = {HOSTILE: Estimate(0.5, 0.1, samples=10, sample_unit="examples")}
    notes = (HOSTILE,)
    return survey_of(land, HOSTILE, metrics=metrics, notes=notes, provenance=record)


ALL = {
    "himmelblau": himmelblau,
    "double well": double_well,
    "noisy bowl": noisy_bowl,
    "line": line,
    "box": box,
    "hostile": hostile,
}
