"""The optimizers of topoadamw 0.1.0, around a `LandscapeLR`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.compat.topoadamw.probe import SubspaceProbe
from lossatlas.objective import supervised
from lossatlas.steering import LandscapeLR, RegimePolicy, sub_batch
from lossatlas.steering.optimizers import probe_grid, refuse_network
from lossatlas.steering.probe import Closure

Ratio = float | Sequence[float]


class TopoAdam:
    """An optimizer whose rates are scaled as topoadamw 0.1.0 does.

    Args:
        base_optimizer: any.
        model: what is probed.
        interval: steps between probes. Default 50.
        probe_kwargs: "grid_size" (15), "span" (0.12), "n_samples" (16); "tda_grid_size" is
            accepted and not used. Or those of `ProbeGrid`.
        max_lr_ratio: greatest scale, one number or one a group. Default 1.
        min_lr_ratio: least scale, likewise. Default 0.2.
        warmup_steps: no decision up to this step. Default 150.
        use_topo_cnn: True is an error; see the module.
        topo_cnn_kwargs: ignored with it.
        verbose: accepted; decisions are in `controller.log`.

    Attributes:
        optimizer: the base optimizer.
        controller: the `LandscapeLR`.
        probe: a `SubspaceProbe`, for code of your own.

    Raises:
        ArgumentError: numbers out of range, or `use_topo_cnn=True`.
        UnknownNameError: an unknown key of `probe_kwargs`.
    """

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        model: nn.Module,
        interval: int = 50,
        probe_kwargs: Mapping[str, Any] | None = None,
        max_lr_ratio: Ratio = 1.0,
        min_lr_ratio: Ratio = 0.2,
        warmup_steps: int = 150,
        use_topo_cnn: bool = False,
        topo_cnn_kwargs: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        refuse_network(use_topo_cnn)
        settings = dict(probe_kwargs or {})
        samples = settings.get("n_samples", 16)
        grid, _ = probe_grid(settings, samples=samples)
        self.optimizer, self.model, self.verbose = base_optimizer, model, verbose
        self.probe = SubspaceProbe(model, settings.get("grid_size", 15), grid.span, samples)
        self.controller = LandscapeLR(
            base_optimizer,
            RegimePolicy(compat="0.1.0"),
            interval=interval,
            warmup=warmup_steps,
            min_ratio=min_lr_ratio,
            max_ratio=max_lr_ratio,
            grid=grid,
            model=model,
        )

    @property
    def steps(self) -> int:
        """Updates done so far."""
        return self.controller.last_epoch

    @property
    def loss_ema(self) -> float | None:
        """The moving average that the brake compares with; None before the first probe."""
        average: float | None = self.controller._controller.memory["average"]
        return average

    @loss_ema.setter
    def loss_ema(self, value: float | None) -> None:
        memory = self.controller._controller.memory
        self.controller._controller.memory = dict(memory) | {"average": value}

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        data: Any = None,
        target: Any = None,
        criterion: Callable[..., Tensor] | None = None,
    ) -> Any:
        """One update; where a probe is due it reads the batch.

        Args:
            closure: as for the base optimizer.
            data: input of the model; without the three there is no probe.
            target: what the criterion compares with.
            criterion: (output, target) -> loss.

        Returns:
            What the base optimizer gives.
        """
        value = self.optimizer.step() if closure is None else self.optimizer.step(closure)
        self.controller.step(self._closure(data, target, criterion), strict=False)
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients.

        Args:
            set_to_none: as for every optimizer.
        """
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of optimizer and controller.

        Returns:
            "optimizer" and "controller".
        """
        return {
            "optimizer": self.optimizer.state_dict(),
            "controller": self.controller.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state; one of the original (the base optimizer's alone) is taken, too.

        Args:
            state_dict: what `state_dict` gave.
        """
        own = "controller" in state_dict
        self.optimizer.load_state_dict(state_dict["optimizer"] if own else dict(state_dict))
        if own:
            self.controller.load_state_dict(state_dict["controller"])

    def _closure(self, data: Any, target: Any, criterion: Any) -> Closure | None:
        if data is None or target is None or criterion is None:
            return None
        return sub_batch(self.model, supervised(criterion), (data, target), len(data))

    def _extract_geometric_features(self, probe_result: Mapping[str, Any]) -> dict[str, float]:
        center = float(probe_result["center"])
        ring, far = list(probe_result["neighbors"]), list(probe_result["samples"])
        losses = torch.tensor([center, *ring, *far], dtype=torch.float64)
        rise = float(torch.tensor(ring, dtype=torch.float64).mean()) - center
        spread = losses.std(correction=0) / (losses.mean() + 1e-8)
        return {
            "center_loss": center,
            "sharpness": rise / (center + 1e-8),
            "variance": float(spread),
        }

    def __getattr__(self, name: str) -> Any:
        # Not for what copies and unpicklers ask for before there is an optimizer.
        if name.startswith("__") or "optimizer" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.optimizer, name)


class TopoAdamW(TopoAdam):
    """`TopoAdam` around torch's AdamW.

    Args:
        params: as for AdamW.
        model: what is probed.
        lr: base rate. Default 1e-3.
        weight_decay: decoupled. Default 5e-4.
        **kwargs: of `TopoAdam` by name, the others of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        model: nn.Module,
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        **kwargs: Any,
    ) -> None:
        own = {name: kwargs.pop(name) for name in _OWN if name in kwargs}
        base = torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, **kwargs)
        super().__init__(base, model, **own)


_OWN = (
    "interval",
    "probe_kwargs",
    "max_lr_ratio",
    "min_lr_ratio",
    "warmup_steps",
    "use_topo_cnn",
    "topo_cnn_kwargs",
    "verbose",
)


def create_topoadam(model: nn.Module, *args: Any, **kwargs: Any) -> TopoAdam:
    """`TopoAdam` around AdamW over all parameters of a model.

    Args:
        model: any module.
        *args: lr, weight_decay, as for `create_topoadamw`.
        **kwargs: of `TopoAdam`.

    Returns:
        The optimizer.
    """
    return create_topoadamw(model, *args, **kwargs)


def create_topoadamw(
    model: nn.Module, lr: float = 1e-3, weight_decay: float = 5e-4, **kwargs: Any
) -> TopoAdamW:
    """`TopoAdamW` over all parameters of a model.

    Args:
        model: any module.
        lr: base rate. Default 1e-3.
        weight_decay: decoupled. Default 5e-4.
        **kwargs: of `TopoAdamW`.

    Returns:
        The optimizer.
    """
    return TopoAdamW(model.parameters(), model, lr=lr, weight_decay=weight_decay, **kwargs)
