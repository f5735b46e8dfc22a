"""Networks trained on digits with rare classes, and the saddle ratio of every class."""

import itertools
import logging
import math

import numpy as np
import torch

import lossatlas as la
from lossatlas.curvature import spectrum
from lossatlas.linalg.estimators import mean_of
from lossatlas.recipes import paired
from lossatlas.rng import generator
from lossatlas.training import build_loss, build_model, load_dataset, train

HEAD, TAIL, EQUAL = 110, 10, 10
STEPS = (60, 300)
# Which examples a class is measured on: all of its own in training, ten of them, ten unseen.
ON = ("all", "ten", "unseen")
_log = logging.getLogger("study")


def rows(seeds):
    """One line a seed, kind of data, length of training, examples and class."""
    digits = load_dataset("digits", normalize="standardized")
    found = []
    for seed, kind in itertools.product(range(seeds), ("rare", "balanced")):
        found += _one(digits, seed, kind)
        _log.info("seed %d, %s", seed, kind)
    return found


def differences(found):
    """Mean ratio of the rare half of the classes minus that of the other half, over seeds."""
    keys = sorted({(r["kind"], r["steps"], r["on"]) for r in found})
    table = []
    for kind, steps, on in keys:
        chosen = [r for r in found if (r["kind"], r["steps"], r["on"]) == (kind, steps, on)]
        seeds = [
            [r for r in chosen if r["seed"] == s] for s in sorted({r["seed"] for r in chosen})
        ]
        pairs = [_halves(lines, "ratio") for lines in seeds]
        line = {"kind": kind, "steps": steps, "on": on, "p": _p(seeds)}
        line |= {"share": float(np.mean([tail > head for tail, head in pairs]))}
        line |= {"tail": _mean([t for t, _ in pairs]), "head": _mean([h for _, h in pairs])}
        for what in ("loss", "gradient"):
            line[what] = np.mean([_halves(lines, what) for lines in seeds], 0).tolist()
        table.append(line | _interval(pairs))
    return table


def _one(digits, seed, kind):
    order = torch.randperm(10, generator=generator(seed, "classes"))
    tail = set(order[:5].tolist())
    kept, fresh = [], []
    for label in range(10):
        places = torch.nonzero(digits.targets == label).flatten()
        places = places[torch.randperm(len(places), generator=generator(seed, "rows", label))]
        # Both kinds of data hold as many examples in all.
        count = (TAIL if label in tail else HEAD) if kind == "rare" else (TAIL + HEAD) // 2
        kept.append(places[:count])
        fresh.append(places[-EQUAL:])
    sets = {
        "all": digits.pick(torch.cat(kept)),
        "ten": digits.pick(torch.cat([rows[:EQUAL] for rows in kept])),
        "unseen": digits.pick(torch.cat(fresh)),
    }
    model = build_model("mlp(32)", digits, seed=seed)
    found, done = [], 0
    for steps in STEPS:
        train(
            model, [(sets["all"].inputs, sets["all"].targets)], "cross_entropy",
            steps=steps - done, optimizer="sgd", lr=0.1, seed=seed,
        )  # fmt: skip
        done = steps
        for on, data in sets.items():
            found += [
                line | {"seed": seed, "kind": kind, "steps": steps, "on": on,
                        "tail": int(line["label"]) in tail}
                for line in _classes(model, data)
            ]  # fmt: skip
    return found


def _classes(model, data):
    measure = la.supervised(build_loss("cross_entropy"))
    objective = la.Objective(model, measure, [(data.inputs, data.targets)])
    found = spectrum(objective, top=1, bottom=1, density=False, tolerance=1e-2, by="class")
    for line in found.groups:
        keep = data.targets == int(line.name)
        loss = la.Objective(model, measure, [(data.inputs[keep], data.targets[keep])]).value()
        yield {"label": line.name, "examples": line.examples,
               "ratio": _ratio(line), "loss": loss,
               "largest": line.largest, "smallest": line.smallest,
               "bounds": [line.largest_bound, line.smallest_bound],
               "gradient": line.gradient_norm.value}  # fmt: skip


def _ratio(line):
    # Where the bound hides the sign of the lowest eigenvalue: the middle of what is possible.
    return sum(line.ratio_range) / 2 if math.isnan(line.ratio) else line.ratio


def _halves(lines, what):
    return tuple(
        np.mean([r[what] for r in lines if r["tail"] is side]) for side in (True, False)
    )


def _mean(values):
    found = mean_of(values)
    return [found.value, found.stderr]


def _interval(pairs):
    found = paired([t for t, _ in pairs], [h for _, h in pairs])
    low, high = found.interval()
    return {"mean": found.value, "lower": low, "upper": high}


def _p(by_seed, draws=2000):
    """How often names of classes that are dealt anew give as large a difference (two sides)."""
    ratios = np.array([[r["ratio"] for r in lines] for lines in by_seed])
    names = np.array([[r["tail"] for r in lines] for lines in by_seed])

    def difference(tail):
        return (ratios * tail).sum(1).mean() / 5 - (ratios * ~tail).sum(1).mean() / 5

    dealt = np.random.default_rng(0)
    seen = abs(difference(names))
    null = [abs(difference(dealt.permuted(names, axis=1))) for _ in range(draws)]
    return float((1 + np.sum(np.array(null) >= seen)) / (1 + draws))
