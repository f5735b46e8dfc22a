"""Maps of known functions, as a survey would make them."""

from dataclasses import replace

import numpy as np

from lossatlas.landscape.landscape import Landscape

FUNCTIONS = {
    "himmelblau": lambda x, y: (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2,
    "double well": lambda x, y: (x**2 - 1) ** 2 + 0.6 * y**2 + 0.15 * x + 0.3,
    "bowl": lambda x, y: 0.2 + x**2 + 0.5 * y**2,
    "tilted": lambda x, y: x - 2 * y,
}


def sample_map(name="bowl", span=1.6, points=31, *, noise=0.0, walls=False, seed=0, **changes):
    """A plane; `noise` perturbs the values and is their standard error."""
    axis = np.linspace(-span, span, points)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    rng = np.random.default_rng(seed)
    values = FUNCTIONS[name](x, y) + noise * rng.standard_normal(x.shape)
    stderr = (
        np.full(x.shape, noise) * (1 + 0.4 * x / span) if noise else np.full(x.shape, np.nan)
    )
    if walls:
        values[-points // 5 :, -points // 6 :] = np.nan
    fields = {
        "values": values,
        "stderr": np.where(np.isfinite(values), stderr, np.nan),
        "axes": (axis, axis.copy()),
        "labels": ("random 1", "random 2"),
        "computed": np.ones(x.shape, dtype=bool),
        "evaluations": x.size,
        "count": 1000,
    }
    return Landscape(**(fields | changes))


def with_trajectory(landscape, steps=25, residual=0.12):
    """A way of training that winds into the middle of the map."""
    t = np.linspace(0, 1, steps)[:, None]
    reach = landscape.axes[0][-1]
    way = reach * (1 - t) * np.concatenate([0.8 * np.cos(2 * t), 0.9 * np.sin(1 + t)], axis=1)
    seen = np.linspace(3.0, 0.25, steps)

    return replace(
        landscape,
        landmarks={"trajectory": way},
        landmark_residuals={"trajectory": residual * (1 - t[:, 0])},
        landmark_values={"trajectory": seen},
    )


def refined_map(name="double well", points=41, noise=0.004):
    """As an adaptive map: a coarse grid computed, one quarter finer, the rest interpolated."""
    computed = np.zeros((points, points), dtype=bool)
    computed[::4, ::4] = True
    computed[: points // 2 : 2, : points // 2 : 2] = True
    full = sample_map(name, points=points, noise=noise)
    return sample_map(
        name,
        points=points,
        noise=noise,
        computed=computed,
        stderr=np.where(computed, full.stderr, np.nan),
        interpolation_error=0.006,
        interpolation_rms=0.002,
        held_out=300,
        evaluations=int(computed.sum()) + 300,
    )


def line_map(points=61, noise=0.03, walls=False):
    axis = np.linspace(-2, 2, points)
    values = FUNCTIONS["double well"](axis, 0.0)
    if walls:
        values[:5] = np.inf
    return Landscape(
        values=values,
        stderr=np.full(points, noise),
        axes=(axis,),
        labels=("gradient",),
        computed=np.ones(points, dtype=bool),
        evaluations=points,
        count=1000,
    )


def box_map(points=17):
    axis = np.linspace(-1.5, 1.5, points)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    values = FUNCTIONS["double well"](x, y) + 0.4 * z**2
    return Landscape(
        values=values,
        stderr=np.full(values.shape, 0.01),
        axes=(axis, axis.copy(), axis.copy()),
        labels=("random 1", "random 2", "random 3"),
        computed=np.ones(values.shape, dtype=bool),
        evaluations=values.size,
        count=1000,
    )
