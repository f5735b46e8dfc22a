"""Slow and obvious: what a Betti curve and a profile say, counted one level at a time."""

import numpy as np


def alive_at(diagram, dimension, level):
    """Bars of one degree that are born at or below a level and not dead yet."""
    return sum(
        1
        for birth, death, degree in zip(
            diagram.births, diagram.deaths, diagram.dimensions, strict=True
        )
        if degree == dimension and birth <= level < death
    )


def share_below(values, level):
    """Share of the finite points at or below a level."""
    finite = values[np.isfinite(values)]
    return sum(1 for value in finite if value <= level) / finite.size
