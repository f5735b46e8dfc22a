"""A point of parameter space as a state dict: parameters that move, buffers with them."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lossatlas.checks import check_same_structure, nearest
from lossatlas.errors import StructureError
from lossatlas.linalg.params import Params, qualified_name
from lossatlas.objective.modes import norm_layers


@dataclass(frozen=True)
class State:
    """A point in two parts.

    Attributes:
        params: the parameters that move, in the order of the objective.
        buffers: buffers and frozen parameters that belong to this point, name -> tensor.
    """

    params: Params
    buffers: Params = field(default_factory=dict)

    @property
    def whole(self) -> Params:
        """Both parts as one mapping."""
        return {**self.params, **self.buffers} if self.buffers else self.params

    def fetched(self) -> "State":
        """The same point, with all tensors where they are needed."""
        return State(fetched(self.params), fetched(self.buffers))


def split_state(
    model: nn.Module, mode: str, own: Params, point: Params, keep: Container[str] = ()
) -> State:
    """Sort the entries of a state dict into what moves and what goes with it."""
    if not isinstance(point, Mapping) or not point.keys() - own.keys():
        check_same_structure(params=point, objective=own)
        check_precision(point, own)
        return State(on_devices_of(model, point))
    every = _every_tensor(model)
    first = first_names(model)
    named = {first.get(name, name): value for name, value in point.items()}
    _check_known(named, every)
    params = {name: named[name] for name in own if name in named}
    check_same_structure(params=params, objective=own)
    check_precision(params, own)
    still = _unread(model, mode)
    _check_statistics(named)
    buffers = {}
    for name, value in named.items():
        if name in own or name in still:
            continue
        check_same_structure(state={name: value}, model={name: every[name]})
        if name in keep or not _spare(name, value, every[name]):
            buffers[name] = value
    return State(on_devices_of(model, params), on_devices_of(model, buffers))


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    every = _every_tensor(model).items()
    return {name: first.setdefault(id(value), name) for name, value in every}


def _every_tensor(model: nn.Module) -> dict[str, Tensor]:
    # Of the base class: TorchRL's modules take no such argument.
    every: dict[str, Tensor] = dict(nn.Module.named_parameters(model, remove_duplicate=False))
    return every | dict(nn.Module.named_buffers(model, remove_duplicate=False))


class _Moved(Mapping[str, Tensor]):
    # Tensors are sent when they are asked for: many checkpoints need not fit on a card.

    def __init__(self, point: Params, places: Mapping[str, torch.device]) -> None:
        self._point, self._places = point, places

    def __getitem__(self, name: str) -> Tensor:
        value = self._point[name]
        return value.to(self._places.get(name, value.device))

    def __iter__(self) -> Iterator[str]:
        return iter(self._point)

    def __len__(self) -> int:
        return len(self._point)


def placed_as(point: Params, like: Params) -> Params:
    """A point on the devices of tensors of the same names; itself where it is there already."""
    tensors = {n: like[n] for n, v in point.items() if n in like and isinstance(v, Tensor)}
    places = {
        n: value.device
        for n, value in tensors.items()
        if isinstance(value, Tensor) and not value.is_meta
    }
    if all(point[name].device == device for name, device in places.items()):
        return point
    return _Moved(point, places)


def fetched(point: Params) -> Params:
    """A point whose tensors are all sent; itself where nothing is to be sent."""
    return dict(point) if isinstance(point, _Moved) else point


def on_devices_of(model: nn.Module, point: Params) -> Params:
    """A point where parameters and buffers of a model are; itself where it is there already."""
    if not point:
        return point
    return placed_as(point, _every_tensor(model) | dict(model.named_parameters()))


def check_precision(point: Params, own: Params) -> None:
    """Refuse a point in half precision at a model that is not."""
    for name, value in point.items():
        if torch.finfo(value.dtype).eps > torch.finfo(own[name].dtype).eps:
            here, there = (str(v.dtype).removeprefix("torch.") for v in (value, own[name]))
            raise StructureError(
                f"'{name}' is {here} and the model's is {there}: numbers rounded to {here} "
                "would be computed with as they are. Convert the point, as in "
                f"{{n: v.to(torch.{there}) for n, v in point.items()}}, or read it with "
                "la.io.load_checkpoint(path, model=model), which converts it and says so."
            )


def _check_known(point: Params, every: Params) -> None:
    for name in point:
        if name not in every:
            raise StructureError(
                f"the model has no entry '{name}'{nearest(name, every)}; give a state dict of "
                "this model, or its parameters alone."
            )


def _check_statistics(point: Params) -> None:
    # Half of a layer's statistics would be mixed with half of the model's.
    for name in point:
        layer, _, end = name.rpartition(".")
        other = {"running_mean": "running_var", "running_var": "running_mean"}.get(end)
        twin = qualified_name(layer, other or "")
        if other is not None and twin not in point:
            raise StructureError(
                f"the state dict has '{name}' and no '{twin}'; give both running statistics of "
                "a layer, or none."
            )


def tracks_statistics(model: nn.Module) -> bool:
    """Whether some layer normalizes by running statistics."""
    return any(layer.track_running_stats for layer in norm_layers(model))


def _unread(model: nn.Module, mode: str) -> set[str]:
    # Statistics of the batch, or estimated anew, take the place of those of the file.
    if mode == "eval":
        return set()
    layers = {id(layer) for layer in norm_layers(model)}
    return {
        qualified_name(path, name)
        for path, module in model.named_modules()
        if id(module) in layers
        for name, _ in module.named_buffers(recurse=False)
    }


def _spare(name: str, value: Tensor, own: Tensor) -> bool:
    if name.endswith("num_batches_tracked"):
        return True
    frozen = isinstance(own, nn.Parameter) or not own.is_floating_point()
    return frozen and torch.equal(value.to(own.device, own.dtype), own)
