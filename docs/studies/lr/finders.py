"""The range tests of Lightning and of torch-lr-finder, where they are installed."""

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout

import torch
from torch.utils.data import DataLoader, TensorDataset

from lossatlas.recipes import TrainingSetup
from lossatlas.training import build_model
from lossatlas.training.criteria import build_loss

# Updates of each test.
STEPS = 100


def _optimizer(name: str, params: object, lr: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(params, lr=lr, momentum=0.9)
    return torch.optim.AdamW(params, lr=lr)


def _loader(setup: TrainingSetup, seed: int) -> DataLoader:
    data = TensorDataset(setup.train.inputs, setup.train.targets)
    order = torch.Generator().manual_seed(seed)
    return DataLoader(data, setup.batch_size, shuffle=True, generator=order)


def lightning(setup: TrainingSetup, optimizer: str, seed: int) -> float | None:
    """What `Tuner.lr_find` of Lightning suggests."""
    try:
        import pytorch_lightning as L
        from pytorch_lightning.tuner import Tuner
    except ImportError:
        return None
    model = build_model(setup.model, setup.train, seed=seed)
    criterion = build_loss(None, task=setup.train.task)

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = model, 1e-3

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return criterion(self.model(batch[0]), batch[1]).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return _optimizer(optimizer, self.parameters(), self.lr)

    with (
        warnings.catch_warnings(),
        redirect_stderr(io.StringIO()),
        redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_epochs=1000, logger=False, enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        found = Tuner(trainer).lr_find(
            Module(), train_dataloaders=_loader(setup, seed), num_training=STEPS, max_lr=10.0
        )
    return found.suggestion() if found else None


def torch_lr_finder(setup: TrainingSetup, optimizer: str, seed: int) -> float | None:
    """Where the range test of torch-lr-finder falls most steeply."""
    try:
        from torch_lr_finder import LRFinder
    except ImportError:
        return None
    model = build_model(setup.model, setup.train, seed=seed)
    criterion = build_loss(None, task=setup.train.task)
    made = _optimizer(optimizer, model.parameters(), 1e-7)
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        finder = LRFinder(model, made, lambda out, y: criterion(out, y).mean(), device="cpu")
        finder.range_test(_loader(setup, seed), end_lr=10, num_iter=STEPS)
    rates, losses = finder.history["lr"][10:-5], finder.history["loss"][10:-5]
    if len(rates) < 3:
        return None
    slope = torch.gradient(torch.tensor(losses))[0]
    return float(rates[int(slope.argmin())])
