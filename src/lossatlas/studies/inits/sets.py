"""Which features are tried together, and what a set of them costs."""

from collections.abc import Sequence

from lossatlas.studies.inits.records import Features

# Features that come out of the same passes are paid for once.
_SHARED = {
    "topology": "landscape",
    "null": "landscape",
    "statistics": "landscape",
    "curvature": "derivatives",
}
_DERIVED = ("gradient norm", "SNIP", "GraSP", "gradient quotient")
_SINGLE = (
    "initial loss",
    "norm",
    "gradient norm",
    "gradient quotient",
    "SNIP",
    "GraSP",
    "SynFlow",
    "NASWOT",
    "jacov",
)
CHANCE, RECIPE, SIMPLE, TOPOLOGY = "mean", "scheme + scale", "simple", "topology"
# Sets that trees are tried on, and the network of the published study, which is slow.
BROAD = (RECIPE, TOPOLOGY, "scheme + scale + topology", "everything")
DEEP = (TOPOLOGY, "scheme + scale + topology")


def feature_sets(features: Features) -> dict[str, tuple[str, ...]]:
    """The sets that are compared."""
    recipe = tuple(n for n in features.names if n.startswith(("scheme ", "scale")))
    early = tuple(n for n in features.names if n.startswith("loss after "))
    sizes = tuple(n for n in features.names if n == "norm" or n.startswith("norm of "))
    groups = {name: features.group(name) for name in ("topology", "null", "statistics")}
    curvature = features.group("curvature")
    simple = (*recipe, *(n for n in features.names if n in _SINGLE or n in sizes))
    simple = tuple(dict.fromkeys(simple))
    sets = {RECIPE: recipe} | {name: (name,) for name in _SINGLE if name in features.names}
    sets |= {"sizes": sizes} | {name: (name,) for name in early}
    sets |= {
        "statistics": groups["statistics"],
        "curvature": curvature,
        TOPOLOGY: groups["topology"],
        "topology, losses shuffled": groups["null"],
        SIMPLE: simple,
        "simple + early": simple + early,
        "scheme + scale + topology": recipe + groups["topology"],
        "statistics + topology": groups["statistics"] + groups["topology"],
        "simple + topology": simple + groups["topology"],
        "everything": simple + groups["statistics"] + curvature + groups["topology"],
        "everything + early": simple
        + groups["statistics"]
        + curvature
        + groups["topology"]
        + early,
    }
    return {CHANCE: ()} | {name: names for name, names in sets.items() if names}


def set_cost(features: Features, names: Sequence[str]) -> float:
    """What a set costs for one candidate."""
    most: dict[str, float] = {}
    for name in names:
        source = _source(name, features.groups[features.names.index(name)])
        most[source] = max(most.get(source, 0.0), features.cost[name])
    if "landscape" in most:
        most.pop("initial loss", None)
    return sum(most.values())


def _source(name: str, group: str) -> str:
    if name in _DERIVED:
        return "derivatives"
    return _SHARED.get(group, "training" if name.startswith("loss after ") else name)
