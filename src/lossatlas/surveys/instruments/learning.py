"""What learning does and can still do: interference, plasticity, risk of spikes."""

from collections.abc import Mapping
from typing import Any

from lossatlas.curvature import (
    ZeroSumLosses,
    plasticity,
    spike_risk,
    zero_sum_gradients,
    zero_sum_losses,
)
from lossatlas.errors import ArgumentError
from lossatlas.surveys.context import Context, Parts
from lossatlas.surveys.instrument_result import Quantity, estimated

# A survey's budget; ranks of networks depend on it, so it is one for all.
_TASKS, _STEPS = 3, 200


def measure_interference(site: Context) -> Parts:
    """How far examples cancel each other: their gradients here, their losses on the way."""
    return {
        "gradients": lambda: zero_sum_gradients(site.objective, seed=site.seed),
        "losses": lambda: _on_the_way(site),
    }


def _on_the_way(site: Context) -> ZeroSumLosses:
    if len(site.checkpoints) < 2:
        raise ArgumentError(
            "changes of the loss need two checkpoints of the training; pass checkpoints="
        )
    # Half of the way back: single steps near the end are noise.
    before = site.checkpoints[(len(site.checkpoints) - 1) // 2]
    return zero_sum_losses(site.objective, before, seed=site.seed)


def read_interference(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_interference`."""
    found = []
    if "gradients" in results:
        meaning = "1 - |sum| / sum of sizes, weight by weight; at 1 examples cancel"
        gradients = results["gradients"].overall
        found.append(estimated("interference of gradients", gradients, meaning))
    if "losses" in results:
        losses = results["losses"]
        meaning = f"since half of the way; {100 * losses.worsened:.0f} % of examples got worse"
        found.append(estimated("interference of losses", losses.interference, meaning))
    return tuple(found)


def measure_plasticity(site: Context) -> Parts:
    """How well random labels can be learned from here."""
    return {
        "plasticity": lambda: plasticity(
            site.objective, tasks=_TASKS, steps=_STEPS, seed=site.seed
        )
    }


def read_plasticity(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The number of `measure_plasticity`."""
    found = results["plasticity"]
    meaning = (
        f"how far {found.steps} steps of Adam at {found.learning_rate:g} get below the best "
        "constant on random labels"
    )
    return (estimated("plasticity", found.value, meaning, unit="nats"),)


def measure_spikes(site: Context) -> Parts:
    """How much residual blocks can amplify a gradient."""
    return {"spikes": lambda: spike_risk(site.objective, seed=site.seed)}


def read_spikes(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_spikes`."""
    found = results["spikes"]
    weakest = min(found.blocks, key=lambda block: block.shortcut)
    bound = "the gradient grows at most e to this power from the last block to the first"
    return (
        Quantity("log gain of all blocks", found.log_bound, why=found.reason, meaning=bound),
        Quantity(
            "smallest shortcut",
            weakest.shortcut,
            why=found.reason,
            meaning=f"deviation of the input of {weakest.name}; about 1 or more is safe",
        ),
        *(
            Quantity(
                f"gain of {block.name}",
                block.gain,
                why=f"power iteration, last change {block.change:.1g}",
                meaning=f"shortcut {block.shortcut:.3g}, branch {block.branch:.3g}",
                is_minor=True,
            )
            for block in found.blocks
        ),
    )
