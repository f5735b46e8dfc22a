"""Running statistics and other buffers of networks: those given, and those made from them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lossatlas.errors import AtlasError
from lossatlas.landscape.checkpoints import states_of
from lossatlas.landscape.request import ESTIMATED_ANEW, NO_STATISTICS, OF_THE_BATCH
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.modes import Mode, norm_layers
from lossatlas.objective.point import State, first_names, tracks_statistics
from lossatlas.text import as_sentence, with_error
from lossatlas.weights.network_checks import check_finite, check_whole_numbers
from lossatlas.weights.paired import blend

NOT_ANEW = "running statistics cannot be estimated from batches like these"


def whole_networks(objective: Objective, given: Mapping[str, Params]) -> dict[str, State]:
    """Networks by name, each with its own buffers, whatever the mode reads of them."""
    for name, params in given.items():
        check_finite(name, params)
    states = states_of(objective, [*given.values()], mode="eval", names=[*given])
    return dict(zip(given, states, strict=True))


def mixed_buffers(states: Sequence[State], shares: Sequence[float]) -> dict[str, Tensor]:
    """Buffers of a network between others; no variance falls below the least of theirs."""
    check_whole_numbers(states)
    points = [state.buffers for state in states]
    result = blend(points, shares)
    for name in result:
        if name.endswith("running_var"):
            lowest = torch.stack([point[name] for point in points]).amin(0)
            result[name] = torch.maximum(result[name], lowest)
    return result


def mean_network(states: Sequence[State]) -> Params:
    """The mean of networks, buffers included; equal networks give the same bits."""
    shares = [1 / len(states)] * len(states)
    params = blend([state.params for state in states], shares)
    return State(params, mixed_buffers(states, shares)).whole


def statistics_names(objective: Objective) -> list[str]:
    """Names of the running statistics, counters included, of layers that keep them."""
    layers = [m for m in norm_layers(objective.model) if m.track_running_stats]
    named = {name for name, module in objective.model.named_modules() if module in layers}
    first = first_names(objective.model)
    own = (first[name] for name in first if name.rpartition(".")[0] in named)
    buffers = dict(objective.model.named_buffers())
    return [name for name in dict.fromkeys(own) if name in buffers]


def running_statistics(objective: Objective, params: Params) -> dict[str, Tensor]:
    """Statistics of norm layers at some weights, estimated from the data of the objective."""
    anew, names = objective.part(), statistics_names(objective)
    anew.mode = "recalibrated"

    def read() -> dict[str, Tensor]:
        buffers = dict(objective.model.named_buffers(remove_duplicate=False))
        return {name: buffers[name].clone() for name in names}

    return anew.with_params(params, read)


def statistics_notes(
    objective: Objective, states: Sequence[State], made: str = "", *, anew: bool = False
) -> tuple[str, ...]:
    """Which running statistics the networks were measured with, and those made from them."""
    if not tracks_statistics(objective.model):
        return _notes_on_buffers(states, made)
    if objective.mode != "eval":
        return (ESTIMATED_ANEW if objective.mode == "recalibrated" else OF_THE_BATCH,)
    if not set(statistics_names(objective)) & states[0].buffers.keys():
        return (NO_STATISTICS,)
    own = "Each network was measured with its own running statistics"
    if not made:
        return (f"{own}.",)
    if anew:
        return (f"{own}, and {made} with statistics estimated anew from the data.",)
    return (
        f"{own}, and {made} with an average of them, which may not fit; "
        'mode="recalibrated" (--mode recalibrated) estimates them anew from the data.',
    )


def notes_on_change(objective: Objective, changed: str) -> tuple[str, ...]:
    """Which running statistics one network was measured with after a change of its weights."""
    if not tracks_statistics(objective.model):
        return ()
    if objective.mode != "eval":
        return (ESTIMATED_ANEW if objective.mode == "recalibrated" else OF_THE_BATCH,)
    return (
        f"{changed} ran with the running statistics of the unchanged network, which may not "
        'fit; mode="recalibrated" (--mode recalibrated) estimates them anew from the data.',
    )


def _notes_on_buffers(states: Sequence[State], made: str) -> tuple[str, ...]:
    first, *others = (state.buffers for state in states)
    for name, value in first.items():
        if any(not torch.equal(value, other[name]) for other in others):
            mean = f", and {made} with an average of them" if made else ""
            return (
                f"Buffers such as '{name}' differ between the networks: each was measured with "
                f"its own{mean}.",
            )
    return ()


def statistics_between(objective: Objective, states: Sequence[State]) -> str:
    """The running statistics that points between networks ran with; empty where they fit."""
    if objective.mode != "eval" or not tracks_statistics(objective.model):
        return ""
    if set(statistics_names(objective)) & states[0].buffers.keys():
        return "interpolated running statistics"
    return "the running statistics of the model"


def why_not_anew(objective: Objective) -> str:
    """Why running statistics cannot be measured anew; empty where they can."""
    # Shards in passes of their own have no statistics together.
    shared = objective.shared
    is_apart = shared is not None and shared.collective
    return "the model is sharded over processes" if is_apart else ""


def loss_anew(objective: Objective, params: Params, what: str) -> tuple[str, ...]:
    """The loss of a network with running statistics that fit it, in a sentence."""
    is_fitting = objective.mode != "eval" or not tracks_statistics(objective.model)
    if is_fitting or why_not_anew(objective):
        return ()
    try:
        value = loss_text(objective, "recalibrated", params)
    except AtlasError:
        return (as_sentence(NOT_ANEW),)
    return (f"With statistics estimated anew from the data {what} is {value}.",)


def loss_text(objective: Objective, mode: Mode, params: Params) -> str:
    """The loss of a network in mode "eval" or "recalibrated", with its error."""
    if mode == objective.mode:
        loss = objective.evaluate(params)
    elif mode == "recalibrated":
        # Not by a copy in that mode: shares of the data on other processes keep theirs.
        loss = objective.evaluate({**params, **running_statistics(objective, params)})
    else:
        other = objective.local.part()
        other.mode = mode
        loss = other.evaluate(params)
    return with_error(loss.value, loss.stderr)
