"""An objective from a Hugging Face `Trainer`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lossatlas.arguments import public
from lossatlas.errors import ArgumentError, DataError, StochasticError
from lossatlas.integrations.huggingface_loss import HuggingFaceLoss
from lossatlas.integrations.loaders import InOrder
from lossatlas.objective import Objective
from lossatlas.objective.weighted import Weighted

_AUGMENTED = (
    "the collator or the data set is random (random masks or augmentation): pass the batches "
    "of one pass, `data=list(trainer.get_eval_dataloader())`."
)


class TrainerLoss:
    """The batch loss of a Trainer; one pair per sequence if it uses the loss of the model.

    Args:
        trainer: a transformers Trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._pairs = _pairs(trainer)

    def __call__(self, model: nn.Module, batch: Any) -> Tensor | Weighted:
        """The loss of a batch.

        Args:
            model: the model of the trainer.
            batch: batch of its data loader.

        Returns:
            Pairs, or the mean returned by `compute_loss`.
        """
        if self._pairs is not None:
            return self._pairs(model, batch)
        # compute_loss takes entries out of what it is given.
        given = dict(batch) if isinstance(batch, Mapping) else batch
        with self.trainer.compute_loss_context_manager():
            loss: Tensor = self.trainer.compute_loss(model, given)
        return loss


@public
def from_trainer(
    trainer: Any, *, data: Any = "eval", limit: int | None = None, **options: Any
) -> Objective:
    """Build an objective from a Hugging Face `Trainer`: its model, data and loss.

    If the trainer uses the loss of the model, also with `label_smoothing_factor`, every
    sequence gives one (sum, weight) pair, as with `huggingface`. A custom `compute_loss` or
    `compute_loss_func` is called as by the trainer; its means are weighted by batch size, and
    the standard error is over batches.

    Args:
        trainer: a transformers Trainer, or a subclass from another library.
        data: "eval" or "train": that data set, collated by the trainer and in order, in batches
            of `per_device_eval_batch_size`; or a data set; or a list of batches.
        limit: number of batches. Default: all.
        **options: options of `Objective`.

    Returns:
        The objective.

    Raises:
        ArgumentError: `trainer` is not a Trainer, or `data` is another string.
        DataError: the trainer has no such data set.
        StochasticError: two passes over the data differ; the message names the random
            component.

    Examples:
        objective = la.from_trainer(trainer)
        survey = la.survey(objective)
    """
    if not hasattr(trainer, "compute_loss") or not hasattr(trainer, "get_eval_dataloader"):
        kind = type(trainer).__name__
        raise ArgumentError(f"`trainer` must be a transformers.Trainer; got {kind}.")
    batches = InOrder(_loader(trainer, data), limit)
    try:
        return Objective(trainer.model, TrainerLoss(trainer), batches, **options)
    except StochasticError as error:
        raise StochasticError(f"{error} Of a Trainer's data, often {_AUGMENTED}") from None


def _loader(trainer: Any, data: Any) -> Any:
    if isinstance(data, list | tuple):
        return data
    if not isinstance(data, str):
        return trainer.get_test_dataloader(data)
    if data not in {"eval", "train"}:
        raise ArgumentError(
            f"`data` must be 'eval', 'train', a data set or a list of batches; got {data!r}."
        )
    dataset = trainer.eval_dataset if data == "eval" else trainer.train_dataset
    if dataset is None:
        raise DataError(
            f"`trainer` has no {data} data set; give it {data}_dataset=, or pass data=."
        )
    if isinstance(dataset, Mapping):
        names = ", ".join(map(str, dataset))
        raise DataError(
            f"`trainer` has several {data} data sets ({names}); pass one of them as data=."
        )
    # The loader of a test set is one without shuffling.
    return trainer.get_test_dataloader(dataset)


def _pairs(trainer: Any) -> HuggingFaceLoss | None:
    # Only where compute_loss is the library's own, whatever class the trainer is of.
    own = type(trainer).compute_loss.__module__ != "transformers.trainer"
    if own or getattr(trainer, "compute_loss_func", None) is not None:
        return None
    smoother = trainer.label_smoother
    smoothing = 0.0 if smoother is None else float(smoother.epsilon)
    try:
        return HuggingFaceLoss(trainer.model, label_smoothing=smoothing)
    except ArgumentError:
        # Heads that `huggingface` does not know keep the mean of the trainer.
        return None
