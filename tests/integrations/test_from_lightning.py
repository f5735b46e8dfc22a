"""`la.from_lightning`: the loss of a step, its logging calls caught."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lossatlas as la
from lossatlas.errors import ArgumentError, LossError, UnknownNameError

pl = pytest.importorskip("pytorch_lightning")
pytestmark = pytest.mark.filterwarnings("ignore")
X, Y = torch.randn(11, 4, generator=torch.Generator().manual_seed(0)), torch.arange(11) % 3


class Net(pl.LightningModule):
    def __init__(self, gives="return"):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 3))
        self.gives, self.losses = gives, []

    def forward(self, x):
        return self.net(x)

    def step(self, batch):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def training_step(self, batch, index):
        loss = self.step(batch)
        self.losses.append(float(loss))
        self.log("train_loss", loss, prog_bar=True)
        return {"loss": loss, "other": 1}

    def validation_step(self, batch, index):
        loss = self.step(batch)
        self.log_dict({"val_loss": loss, "val_accuracy": torch.tensor(0.5)}, on_epoch=True)
        self.print("a step")
        return loss if self.gives == "return" else None

    def test_step(self, batch, index):
        self.log("nothing", 1.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(pl.LightningDataModule):
    def setup(self, stage):
        self.rows = TensorDataset(X, Y)

    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.rows, batch_size=4)


def truth(module):
    net = copy.deepcopy(module.net).eval()
    with torch.no_grad():
        return float(F.cross_entropy(net(X), Y))


@pytest.mark.parametrize("which", ["validation", "training"])
@pytest.mark.parametrize("gives", ["return", "log"])
def test_the_value_is_that_of_an_own_loop(which, gives, capsys):
    module = Net(gives)
    objective = la.from_lightning(module, Data(), which=which)
    assert objective.value() == pytest.approx(truth(module), rel=1e-6)
    assert set(objective.gradient()) == set(dict(module.named_parameters()))
    assert "log" not in vars(module)
    assert "print" not in vars(module)
    assert capsys.readouterr().out == ""


def test_the_key_picks_what_is_logged():
    module = Net()
    picked = la.from_lightning(module, Data(), key="val_loss")
    assert picked.value() == pytest.approx(truth(module), rel=1e-6)
    with pytest.raises(LossError, match="it gave val_loss, val_accuracy: pass key="):
        la.from_lightning(module, Data(), key="missing")
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    with pytest.raises(LossError, match="it gave nothing: pass key="):
        la.from_lightning(module, dataloader=loader, which="test")


def test_a_module_that_was_trained_is_measured_without_a_trace(tmp_path):
    module = Net()
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        accelerator="cpu",
    )
    trainer.fit(module, Data())
    logged, before = dict(trainer.callback_metrics), len(module.losses)
    objective = la.from_lightning(module, trainer.datamodule, which="training")
    assert objective.value() == pytest.approx(truth(module), rel=1e-6)
    assert dict(trainer.callback_metrics) == logged
    assert len(module.losses) == before


def test_loaders_of_the_module_and_lists_of_batches_serve():
    class Whole(Net):
        def val_dataloader(self):
            return DataLoader(TensorDataset(X, Y), batch_size=4)

    module = Whole()
    assert la.from_lightning(module).value() == pytest.approx(truth(module), rel=1e-6)
    given = la.from_lightning(module, dataloader=[(X, Y)], params="net.0.*")
    assert given.names == ("net.0.weight", "net.0.bias")
    first = la.from_lightning(module, dataloader=[(X[:4], Y[:4]), (X[4:], Y[4:])], limit=1)
    alone = la.from_lightning(module, dataloader=[(X[:4], Y[:4])])
    assert first.value() == alone.value()


def test_what_cannot_be_served_is_named():
    with pytest.raises(ArgumentError, match="LightningModule with validation_step; got Linear"):
        la.from_lightning(nn.Linear(1, 1))
    with pytest.raises(ArgumentError, match="has no val_dataloader; pass a datamodule"):
        la.from_lightning(Net())
    with pytest.raises(UnknownNameError, match="which"):
        la.from_lightning(Net(), Data(), which="predict")
    manual = Net()
    manual.automatic_optimization = False
    with pytest.raises(ArgumentError, match="which='validation'"):
        la.from_lightning(manual, Data(), which="training")

    class Two(Data):
        def val_dataloader(self):
            return {"one": super().val_dataloader(), "two": super().val_dataloader()}

    with pytest.raises(ArgumentError, match="several loaders \\(one, two\\)"):
        la.from_lightning(Net(), Two())
