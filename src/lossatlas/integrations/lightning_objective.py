"""An objective from a LightningModule."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lossatlas.arguments import public
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, LossError
from lossatlas.guard import patched
from lossatlas.integrations.loaders import InOrder
from lossatlas.objective import Objective

_STEPS = {
    "validation": ("validation_step", "val_dataloader", "validate"),
    "training": ("training_step", "train_dataloader", "fit"),
    "test": ("test_step", "test_dataloader", "test"),
}


class LightningLoss:
    """The loss of a step of a LightningModule, with its logging intercepted.

    Args:
        module: the module.
        step: name of its method.
        key: name of the loss among the returned or logged values; None uses the return value,
            its entry "loss", or the only logged entry with "loss" in its name.
    """

    def __init__(self, module: Any, step: str, key: str | None) -> None:
        self.module, self.step, self.key = module, step, key

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch.

        Args:
            model: the module.
            batch: argument of the step.

        Returns:
            The value returned or logged under the key.

        Raises:
            LossError: there is no such entry.
        """
        with _caught(model) as logged:
            given = getattr(model, self.step)(batch, 0)
        entries = {**logged, **(given if isinstance(given, Mapping) else {})}
        if self.key is None and isinstance(given, Tensor):
            return given
        loss = entries.get(self.key or "loss")
        if loss is None and self.key is None:
            named = [key for key in entries if "loss" in key.lower()]
            loss = entries[named[0]] if len(named) == 1 else None
        if not isinstance(loss, Tensor):
            names = ", ".join(entries) or "nothing"
            raise LossError(
                f"{self.step} must return the loss, or return or log it under "
                f"`key` ({self.key or 'loss'!r}); it gave {names}: pass key=."
            )
        return loss


@public
def from_lightning(
    module: Any,
    datamodule: Any = None,
    *,
    dataloader: Any = None,
    which: str = "validation",
    key: str | None = None,
    limit: int | None = None,
    **options: Any,
) -> Objective:
    """Build an objective from a LightningModule: the loss of a step over a data loader.

    The step is called as `step(batch, 0)`, without the hooks of training (such as
    `on_after_batch_transfer`) and with logging discarded. Its means are weighted by batch size
    and the standard error is over batches; if it returns one number per example, errors are
    over examples.

    Args:
        module: the LightningModule.
        datamodule: datamodule that provides the loader, prepared and set up as by a trainer.
            Default: the loader of the module.
        dataloader: one loader, or a list of batches, to use instead.
        which: "validation", "training" or "test": selects the step and the data. A shuffling
            loader is iterated in order.
        key: name of the loss among the returned or logged values. Default: the return value,
            its entry "loss", or the only logged name that contains "loss".
        limit: number of batches. Default: all.
        **options: options of `Objective`.

    Returns:
        The objective.

    Raises:
        ArgumentError: `module` is not a LightningModule, the step or the data do not exist, or
            the module uses manual optimization.
        LossError: the step returns no loss.

    Examples:
        objective = la.from_lightning(module, datamodule)
        survey = la.survey(objective)
    """
    check_one_of("which", which, tuple(_STEPS))
    step, loader, stage = _STEPS[which]
    if not isinstance(module, nn.Module) or not callable(getattr(module, step, None)):
        kind = type(module).__name__
        raise ArgumentError(f"`module` must be a LightningModule with {step}; got {kind}.")
    if which == "training" and not getattr(module, "automatic_optimization", True):
        raise ArgumentError(
            f"{type(module).__name__} uses manual optimization in training_step, which steps "
            "optimizers; pass which='validation'."
        )
    if dataloader is None:
        dataloader = _loader(module, datamodule, loader, stage)
    if isinstance(dataloader, Mapping):
        raise ArgumentError(
            f"{loader} returns several loaders ({', '.join(map(str, dataloader))}); pass one "
            "of them as dataloader=."
        )
    batches = InOrder(dataloader, limit)
    return Objective(module, LightningLoss(module, step, key), batches, **options)


def _loader(module: Any, datamodule: Any, name: str, stage: str) -> Any:
    if datamodule is None:
        owner = module
    else:
        owner = datamodule
        datamodule.prepare_data()
        datamodule.setup(stage)
    try:
        return getattr(owner, name)()
    except (AttributeError, NotImplementedError, ImportError) as error:
        # Lightning's own name for a hook that is not there derives from one of these.
        raise ArgumentError(
            f"{type(owner).__name__} has no {name}; pass a datamodule or dataloader=."
        ) from error
    except Exception as error:
        if "Misconfiguration" not in type(error).__name__:
            raise
        raise ArgumentError(
            f"{type(owner).__name__} has no {name}; pass a datamodule or dataloader=."
        ) from error


@contextmanager
def _caught(module: Any) -> Iterator[dict[str, Any]]:
    # Outside a trainer logging warns or fails; a measurement must not stand in anybody's logs.
    logged: dict[str, Any] = {}

    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        logged[name] = value

    def log_dict(values: Mapping[str, Any], *_: Any, **__: Any) -> None:
        logged.update(values)

    silent = {"log": log, "log_dict": log_dict, "print": lambda *_, **__: None}
    with patched(*((module, name, value) for name, value in silent.items())):
        yield logged
