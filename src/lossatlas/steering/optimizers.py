"""TopoAdamW: AdamW whose rate is scaled by what the landscape looks like, as one object."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.objective import supervised
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.log import DecisionLog
from lossatlas.steering.probe import Closure, ProbeGrid, sub_batch
from lossatlas.steering.reading import Policy

_LOGGER = logging.getLogger("lossatlas.steering")
# The original's names beside ours. Its dense grid served a network that is not here.
_PROBE_KEYS = ("grid_size", "span", "n_samples", "tda_grid_size", "step", "pairs", "examples")


class TopoAdamW(torch.optim.AdamW):
    """AdamW with a `LandscapeLR` inside: a drop-in for topoadamw's class of this name.

    Args:
        params: as for AdamW.
        model: what `step` runs on the batch that it is given.
        lr: base rate. Default 1e-3.
        weight_decay: decoupled. Default 5e-4.
        interval: steps between probes. Default 50.
        probe_kwargs: "span", "grid_size" (whose cells are the step to the neighbors) and
            "n_samples" as in the original, or "step", "span" and "pairs" of `ProbeGrid`;
            "examples" of a batch that a probe reads (default 24).
        max_lr_ratio: greatest scale, one number or one a group. Default 1.
        min_lr_ratio: least scale, likewise. Default 0.2.
        warmup_steps: no decision up to this step. Default 150.
        verbose: log decisions to the logger "lossatlas.steering" (level INFO). Default False.
        use_topo_cnn: the original's network learns the labels of its table and is not
            offered; True is an error. Default False.
        topo_cnn_kwargs: ignored with it.
        policy: decides; `RegimePolicy()` by default.
        scheduler: makes the scheduler that is multiplied, `scheduler(optimizer)`.
        seed: of the probe's directions.
        **kwargs: passed on to AdamW.

    Attributes:
        controller: the `LandscapeLR`.

    Raises:
        ArgumentError: numbers out of range, bounds that do not match the groups.
        UnknownNameError: an unknown key of `probe_kwargs`.

    Examples:
        >>> model = nn.Linear(3, 2)
        >>> optimizer = TopoAdamW(model.parameters(), model, lr=1e-3)
        >>> x, y = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
        >>> nn.functional.cross_entropy(model(x), y).backward()
        >>> optimizer.step(data=x, target=y, criterion=nn.functional.cross_entropy)
        >>> optimizer.steps, len(optimizer.log)
        (1, 0)
    """

    def __init__(
        self,
        params: Iterable[Any],
        model: nn.Module,
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        *,
        interval: int = 50,
        probe_kwargs: Mapping[str, Any] | None = None,
        max_lr_ratio: float | Sequence[float] = 1.0,
        min_lr_ratio: float | Sequence[float] = 0.2,
        warmup_steps: int = 150,
        verbose: bool = False,
        use_topo_cnn: bool = False,
        topo_cnn_kwargs: Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        refuse_network(use_topo_cnn)
        grid, examples = probe_grid(dict(probe_kwargs or {}), samples=8, seed=seed)
        try:
            super().__init__(params, lr=lr, weight_decay=weight_decay, **kwargs)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"torch's AdamW does not take these arguments ({error}); `params` must be "
                "parameters or groups of them, as in `model.parameters()`."
            ) from error
        self.model, self.verbose, self._examples = model, verbose, examples
        self._settings: dict[str, Any] = {
            "policy": policy,
            "interval": interval,
            "warmup": warmup_steps,
            "min_ratio": min_lr_ratio,
            "max_ratio": max_lr_ratio,
            "grid": grid,
            "seed": seed,
        }
        self._scheduler = scheduler
        self.controller = self._steered()

    @property
    def steps(self) -> int:
        """Updates done so far."""
        return self.controller.last_epoch

    @property
    def log(self) -> DecisionLog:
        """The decisions so far."""
        return self.controller.log

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        data: Any = None,
        target: Any = None,
        criterion: Callable[..., Tensor] | None = None,
    ) -> Any:
        """One update; where a probe is due, it reads the first examples of the batch.

        Args:
            closure: as for AdamW.
            data: input of the model; without the three there is no probe.
            target: what the criterion compares with.
            criterion: (output, target) -> loss.

        Returns:
            What the closure gave.

        Raises:
            ArgumentError: some of the three, but not all.
        """
        given = [value is not None for value in (data, target, criterion)]
        if any(given) and not all(given):
            raise ArgumentError(
                "`data`, `target` and `criterion` must be given together, or none of them."
            )
        loss = _bare(torch.optim.AdamW.step)(self, closure)
        before = len(self.controller.log)
        self.controller.after_update()
        self.controller.step(self._probe(data, target, criterion), strict=False)
        if self.verbose and len(self.controller.log) > before:
            _report(self.controller.log)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """AdamW's state with the controller's.

        Returns:
            "state", "param_groups" and "controller".
        """
        return super().state_dict() | {"controller": self.controller.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; one of plain AdamW leaves the controller at its start.

        Args:
            state_dict: what `state_dict` gave.
        """
        super().load_state_dict(state_dict)
        if "controller" in state_dict:
            self.controller.load_state_dict(state_dict["controller"])

    def _probe(self, data: Any, target: Any, criterion: Any) -> Closure | None:
        if criterion is None:
            return None
        return sub_batch(self.model, supervised(criterion), (data, target), self._examples)

    def _steered(self) -> LandscapeLR:
        inner = None if self._scheduler is None else self._scheduler(self)
        return LandscapeLR(self, scheduler=inner, model=self.model, **self._settings)

    def __getstate__(self) -> dict[str, Any]:
        # The controller points back here, so its settings and state travel instead of it.
        steering = {
            "model": self.model,
            "verbose": self.verbose,
            "_examples": self._examples,
            "_settings": self._settings,
            "_scheduler": self._scheduler,
        }
        plain: dict[str, Any] = super().__getstate__()
        return plain | {"steering": steering, "controller": self.controller.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        steering, controller = state.pop("steering", None), state.pop("controller", None)
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if steering is not None:
            self.__dict__.update(steering)
            rates = [group["lr"] for group in self.param_groups]
            self.controller = self._steered()
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
            self.controller.load_state_dict(controller)


def _bare(step: Any) -> Any:
    # Torch puts hooks around the step of every class; those of this one run around all of it.
    while getattr(step, "hooked", False):
        step = step.__wrapped__
    return step


def refuse_network(use_topo_cnn: bool) -> None:
    """Say why the network of topoadamw is not offered, where it is asked for."""
    if use_topo_cnn:
        raise ArgumentError(
            "`use_topo_cnn` must be False: the network of topoadamw 0.1.0 learns the labels of "
            "the table that decides without it; leave it out."
        )


def probe_grid(
    settings: Mapping[str, Any], *, samples: int, seed: int = 0
) -> tuple[ProbeGrid, int]:
    """Where to probe, by topoadamw's names or ours, and how many examples."""
    for key in settings:
        check_one_of("probe_kwargs", key, _PROBE_KEYS)
    examples = settings.get("examples", 24)
    check_at_least("examples", examples, 1)
    span = settings.get("span", 0.12)
    cells = settings.get("grid_size", 15)
    check_at_least("grid_size", cells, 2)
    pairs = settings.get("pairs", settings.get("n_samples", samples) // 2)
    step = settings.get("step", 2 * span / (cells - 1))
    return ProbeGrid(step=step, span=span, pairs=pairs, seed=seed), examples


def _report(log: DecisionLog) -> None:
    record = log.records[-1]
    _LOGGER.info(
        "step %d | %s | sharpness %.3f | variability %.3f | rate %.6g",
        record.reading.step,
        record.reason,
        record.reading.sharpness,
        record.reading.variability,
        record.lr[0],
    )
