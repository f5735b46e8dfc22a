"""Results that are a network: all that a state dict of it holds."""

from collections.abc import Mapping

from torch import Tensor

from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.point import first_names
from lossatlas.result import Result
from lossatlas.weights.statistics import running_statistics, statistics_names


class NetworkResult(Result):
    """A result that holds one network: `params` by their first names, and further names."""

    params: Mapping[str, Tensor]
    tied: Mapping[str, str]

    def state_dict(self) -> dict[str, Tensor]:
        """All that a file of the network holds, for `model.load_state_dict`.

        Returns:
            name -> tensor; complete where the networks were given as state dicts, and without
            frozen parameters where they were given as parameters alone.
        """
        return state_dict_of(self.params, self.tied)


def state_dict_of(params: Params, tied: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under all their names; copies, as files do not hold one twice."""
    return {**params, **{name: params[first_name].clone() for name, first_name in tied.items()}}


def complete_state(
    objective: Objective, made: Params, given: Params
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A network that was made, with all that a state dict of it holds.

    Statistics are those it was judged with; where it has none in the modes that do not read
    them, and in mode "recalibrated", they are estimated. What else it does not have is that of
    a network it was made from, `given`, or a buffer of the model.

    Returns:
        The network, and further names of tied tensors -> the name that it holds them by.
    """
    model = objective.model
    first = first_names(model)
    fallbacks = {name: value for name, value in model.named_buffers() if not value.is_meta}
    fallbacks |= {first.get(name, name): value for name, value in given.items()}
    whole, tied = dict(made), dict[str, str]()
    for name in model.state_dict():
        first_name = first.get(name, name)
        if first_name not in whole and first_name in fallbacks:
            whole[first_name] = fallbacks[first_name].detach().clone()
        if first_name != name and first_name in whole:
            tied[name] = first_name
    is_lacking = objective.mode == "train" and set(statistics_names(objective)) - made.keys()
    if objective.mode == "recalibrated" or is_lacking:
        whole |= running_statistics(objective, made)
    return whole, tied
