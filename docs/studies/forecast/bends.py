"""How often a bend is found where there is none, and where there is one.

`python docs/studies/forecast/bends.py`: a few minutes on one core. Writes bends.json.
"""

import json
from pathlib import Path

import numpy as np

from lossatlas import forecast

DRAWS = 40
LAST = 20_000


def grid(kind):
    """Steps of a log: even, or crowded at the start."""
    if kind == "even":
        return np.arange(50, LAST + 1, 50)
    return np.unique(np.geomspace(20, LAST, 300).astype(int))


def noise(rng, size, scale, alike):
    """Log noise whose neighbors are correlated by `alike`."""
    white = rng.standard_normal(size)
    out = np.empty(size)
    out[0] = white[0]
    for i in range(1, size):
        out[i] = alike * out[i - 1] + np.sqrt(1 - alike**2) * white[i]
    return scale * out


def share_with_bend(loss, step, scale, alike, first_seed):
    """Share of draws in which a bend is found."""
    hits = 0
    for seed in range(DRAWS):
        rng = np.random.default_rng([first_seed, seed])
        curve = forecast.Curve(step, loss * np.exp(noise(rng, step.size, scale, alike)))
        hits += forecast.deceleration(curve) is not None
    return hits / DRAWS


def floors():
    """Truths without a bend: a power law with a floor, a straight line in log-log."""
    for floor, amplitude, alpha in (
        (2, 20, 0.8),
        (2.5, 6, 0.5),
        (1.5, 10, 0.3),
        (3, 60, 1.0),
        (0, 10, 0.2),
    ):
        yield (
            f"{floor} + {amplitude} t^-{alpha}",
            lambda t, f=floor, a=amplitude, p=alpha: f + a * t**-p,
        )


def bends():
    """Truths with a bend: level, step, exponents before and after, width."""
    law = forecast.BrokenPowerLaw()
    for values in (
        (4, 2000, 0.2, 0.02, 0.3), (4, 1000, 0.15, 0.05, 0.1), (3, 3000, 0.3, 0.1, 0.1),
        (3, 2000, 0.12, 0.05, 0.05),
    ):  # fmt: skip
        yield (
            str(values),
            lambda t, v=values: law.predict(
                np.array(v, float), forecast.Curve(t, np.linspace(2, 1, t.size)).inputs
            ),
        )


def main():
    """Simulate and write."""
    rows = []
    for bent, truths in ((False, floors()), (True, bends())):
        for i, (name, truth) in enumerate(truths):
            for kind in ("even", "geometric"):
                step = grid(kind)
                for scale, alike in ((0.001, 0.0), (0.01, 0.0), (0.03, 0.0), (0.003, 0.8)):
                    found = share_with_bend(
                        truth(step.astype(float) if not bent else step), step, scale, alike, i
                    )
                    rows.append({"bend": bent, "truth": name, "log": kind, "noise": scale,
                                 "correlation": alike, "found": found})  # fmt: skip
    out = {
        "draws": DRAWS, "rows": rows,
        "false": float(np.mean([r["found"] for r in rows if not r["bend"]])),
        "worst_false": max(r["found"] for r in rows if not r["bend"]),
        "power": float(np.mean([r["found"] for r in rows if r["bend"]])),
    }  # fmt: skip
    Path(__file__).with_suffix(".json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
