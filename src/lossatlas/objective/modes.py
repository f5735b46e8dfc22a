"""How normalization layers behave while an objective is evaluated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from lossatlas.guard import patched, preserved_modes
from lossatlas.ranks import Ranks, is_initialized

Mode = Literal["eval", "train", "recalibrated"]
MODES: tuple[str, ...] = get_args(Mode)


def norm_layers(model: nn.Module) -> list[_NormBase]:
    """The layers that keep running statistics (BatchNorm and InstanceNorm families)."""
    return [module for module in model.modules() if isinstance(module, _NormBase)]


@contextmanager
def evaluation_mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Put the model into eval mode; with "train", norm layers use the batch's statistics."""
    layers = norm_layers(model) if mode == "train" else []
    untracked = [(layer, "track_running_stats", False) for layer in layers]
    with preserved_modes(model) as modules, patched(*untracked):
        for module in modules:
            # Not by model.eval(), which some models use to merge or cache weights.
            if module.training:
                module.training = False
        for layer in layers:
            layer.training = True
        yield


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Let passes of DistributedDataParallel exchange nothing with other processes."""
    if not is_initialized():
        yield
        return
    wrapped = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
    names = ("require_forward_param_sync", "require_backward_grad_sync")
    with patched(*((module, name, False) for module in wrapped for name in names)):
        yield


def recalibrate(
    model: nn.Module, one_pass: Callable[[], None], ranks: Ranks | None = None
) -> None:
    """Re-estimate the running statistics at the present weights: plain means over one pass.

    Args:
        model: whose layers.
        one_pass: runs the model over all batches, or over those of this process.
        ranks: processes whose batches count together.
    """
    layers = [layer for layer in norm_layers(model) if layer.track_running_stats]
    if not layers:
        return
    for layer in layers:
        layer.reset_running_stats()
    cumulative = [(layer, "momentum", None) for layer in layers]
    with preserved_modes(model), patched(*cumulative):
        for layer in layers:
            layer.training = True
        one_pass()
        if ranks is not None:
            _join(layers, ranks)


def _join(layers: list[_NormBase], ranks: Ranks) -> None:
    # Means over batches: those of each process count as often as it had batches.
    for layer in layers:
        count = layer.num_batches_tracked
        assert count is not None
        own = float(count)
        held = [v for v in (layer.running_mean, layer.running_var) if v is not None]
        total = sum(ranks.gather(own))
        for value in held:
            # What a layer without a batch begins with is no statistic.
            value.mul_(own) if own else value.zero_()
            ranks.add(value)
            value.div_(total or 1.0)
        count.fill_(total)
