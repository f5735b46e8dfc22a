"""How often certainty is claimed wrongly, and how often true wells are certified."""

from dataclasses import dataclass

import numpy as np
from noise import BEYOND, KINDS, surfaces

from lossatlas.topology import certain_basins, persistence, replicate_maps

FEWEST = 4  # what `replicate_maps` takes
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


def counted(truth, noise, seed):
    """Certain basins and ridges by each way; a ridge is false on every one of the surfaces."""
    found = made(truth, noise)
    bars, places, counts = [persistence(found)], [certain_basins(found)], []
    if len(noise) >= FEWEST:
        maps = replicate_maps(truth + noise, count=99, seed=seed)
        bars.append(persistence(found.values, replicates=maps))
        places.append(certain_basins(found.values, replicates=maps))
    for diagram, basins in zip(bars, places, strict=True):
        sure = diagram.dimensions[diagram.certain]
        counts += [(int((sure == 0).sum()), int((sure == 1).sum())), (len(basins), 0)]
    return counts


def row(kind, count, maps, seed=0):
    """False shares and power of one kind of noise at one number of examples."""
    rng = np.random.default_rng([seed, count, *kind.encode()])
    draw = (KINDS | BEYOND)[kind]
    truths = surfaces()
    basins = {name: int((persistence(f).dimensions == 0).sum()) for name, f in truths.items()}
    ways = WAYS if count >= FEWEST else WAYS[:2]
    false = {way: dict.fromkeys(truths, 0) for way in ways}
    found = dict.fromkeys(ways, 0)
    for number in range(maps):
        noise = draw(rng, count)
        for name, truth in truths.items():
            for way, (zero, one) in zip(ways, counted(truth, noise, number), strict=True):
                false[way][name] += zero > basins[name] or one > 0
                found[way] += name == "two wells" and zero >= 2
    return {
        "kind": kind,
        "examples": count,
        "maps": maps,
        "false": {w: {k: v / maps for k, v in each.items()} for w, each in false.items()},
        "power": {w: k / maps for w, k in found.items()},
    }
