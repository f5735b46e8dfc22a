"""How often certainty is claimed wrongly, and how often true wells are certified."""

from dataclasses import dataclass

import numpy as np
from noise import BEYOND, HELD_OUT, KINDS, surfaces

from lossatlas.topology import certain_basins, persistence, replicate_maps

FEWEST = 8  # what `replicate_maps` takes
WAYS = ("threshold", "place by place", "replicates", "replicates, place by place")


@dataclass(frozen=True)
class Map:
    """A map of means over examples, with all that an engine keeps of them."""

    values: np.ndarray
    stderr: np.ndarray
    leverage: np.ndarray
    count: int
    interpolation_error: float = 0.0

    @property
    def axes(self):
        """Indices."""
        return tuple(np.arange(float(n)) for n in self.values.shape)


def made(truth, noise):
    """The map of some examples."""
    examples = noise - noise.mean(0)
    squares = examples**2
    total = squares.sum(0)
    with np.errstate(invalid="ignore"):
        share = np.where(total > 0, squares.max(0) / total, 1.0)
    count = len(noise)
    spread = np.sqrt(total / (count * (count - 1)))
    return Map(truth + noise.mean(0), spread, share, count)


def counted(truth, noise, seed, min_share=None):
    """Certain basins and ridges by each way; a ridge is false on every one of the surfaces."""
    found, rule = made(truth, noise), {"min_share": min_share}
    bars, places = [persistence(found, **rule)], [certain_basins(found, **rule)]
    if len(noise) >= FEWEST:
        maps = replicate_maps(truth + noise, count=99, seed=seed)
        rule |= {"replicates": maps, "units": len(noise)}
        bars.append(persistence(found.values, **rule))
        places.append(certain_basins(found.values, **rule))
    counts = []
    for diagram, basins in zip(bars, places, strict=True):
        sure = diagram.dimensions[diagram.certain]
        counts += [(int((sure == 0).sum()), int((sure == 1).sum())), (len(basins), 0)]
    return counts


def row(kind, count, maps, seed=0, min_share=None):
    """False shares and power of one kind of noise at one number of examples."""
    rng = np.random.default_rng([seed, count, *kind.encode()])
    draw = (KINDS | HELD_OUT | BEYOND)[kind]
    truths = surfaces()
    basins = {name: int((persistence(f).dimensions == 0).sum()) for name, f in truths.items()}
    ways = WAYS if count >= FEWEST else WAYS[:2]
    false = {way: dict.fromkeys(truths, 0) for way in ways}
    found = dict.fromkeys(ways, 0)
    for number in range(maps):
        noise = draw(rng, count)
        for name, truth in truths.items():
            each = counted(truth, noise, number, min_share)
            for way, (zero, one) in zip(ways, each, strict=True):
                false[way][name] += zero > basins[name] or one > 0
                found[way] += name == "two wells" and zero >= 2
    return {
        "kind": kind,
        "examples": count,
        "maps": maps,
        "false": {w: {k: v / maps for k, v in each.items()} for w, each in false.items()},
        "power": {w: k / maps for w, k in found.items()},
    }
