"""The forecast callbacks: in a real Hugging Face Trainer, and in a stand-in for Lightning's."""

import importlib.util
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, StepLR

from lossatlas.errors import ArgumentError
from lossatlas.forecast import LiveReading
from lossatlas.integrations.lightning import ForecastCallback as LightningCallback

transformers = pytest.importorskip("transformers")


class Regression(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x, y):
        return {"loss": ((self.layer(x)[:, 0] - y) ** 2).mean() + 0.5}


def dataset():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4)).astype("float32")
    return [{"x": row, "y": row.sum()} for row in x]


def train(folder, callbacks):
    torch.manual_seed(0)
    model = Regression()
    args = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=60, logging_steps=1, learning_rate=3e-2,
        per_device_train_batch_size=16, report_to=[], use_cpu=True, save_strategy="no",
        disable_tqdm=True, lr_scheduler_type="constant", seed=1, optim="sgd",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=args, train_dataset=dataset(), callbacks=callbacks
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return model, trainer


def test_hugging_face_hooks_on_a_resumed_run():
    from lossatlas.integrations.huggingface import ForecastCallback

    optimizer = make()
    scheduler = LambdaLR(optimizer, lambda t: 1 - (t + 50) / 100)
    log = [{"step": 25, "learning_rate": 0.075}, {"step": 49, "learning_rate": 0.051}]
    state = transformers.TrainerState(max_steps=100, global_step=50, log_history=log)
    callback = ForecastCallback(every=2)
    callback.on_train_begin(None, state, None, lr_scheduler=scheduler)
    rates = callback.watcher._live.lr
    np.testing.assert_allclose(rates[25:], 0.1 * (1 - np.arange(25, 100) / 100), atol=1e-12)
    assert (rates[:25] == 0.075).all()
    for step in range(51, 55):
        state.global_step = step
        callback.on_log(None, state, None, logs={"loss": 3.0 - 0.01 * step})
        callback.on_log(None, state, None, logs={"eval_loss": 3.0})
    assert [reading.step for reading in callback.readings] == [52, 54]


@pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="a real Trainer needs accelerate"
)
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer(tmp_path, caplog):
    from lossatlas.integrations.huggingface import ForecastCallback

    watching = ForecastCallback(every=20)
    with caplog.at_level(logging.INFO, "lossatlas.forecast"):
        model, trainer = train(tmp_path, [watching])
    assert [r.step for r in watching.readings] == [20, 40, 60]
    final = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]
    assert watching.readings[1].steps == 60
    assert watching.readings[-1].lower <= final <= watching.readings[-1].upper
    assert "expected at step 60" in caplog.text
    alone, _ = train(tmp_path, [])
    for name, value in model.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name])


def stand_in(scheduler=None, optimizer=None, total=400, interval="step"):
    config = SimpleNamespace(scheduler=scheduler, interval=interval, frequency=1)
    return SimpleNamespace(
        estimated_stepping_batches=total, global_step=0, optimizers=[optimizer],
        lr_scheduler_configs=[config] if scheduler else [], num_training_batches=10,
        accumulate_grad_batches=1,
    )  # fmt: skip


def make(lr=0.1):
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)


def run(callback, trainer, until):
    logged = []
    module = SimpleNamespace(log=lambda name, value: logged.append((name, value)))
    callback.on_train_start(trainer, module)
    for step in range(1, until + 1):
        trainer.global_step = step
        loss = torch.tensor(2 + step**-0.5)
        outputs = {"loss": loss} if step % 2 else loss
        callback.on_train_batch_end(trainer, module, outputs, None, step)
    return logged


def test_lightning_hooks():
    callback = LightningCallback(window=5, every=10)
    logged = run(callback, stand_in(optimizer=make()), 300)
    assert [r.step for r in callback.readings] == [50, 100, 150, 200, 250, 300]
    assert callback.readings[-1].loss == pytest.approx(2 + 400**-0.5, rel=5e-3)
    assert logged[-1] == ("forecast/final_loss", callback.readings[-1].loss)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_lightning_schedules(interval):
    optimizer = make()
    if interval == "step":
        scheduler = LambdaLR(optimizer, lambda t: 1 - t / 400)
        expected = 0.1 * (1 - np.arange(400) / 400)
    else:
        scheduler = StepLR(optimizer, 20, gamma=0.5)
        expected = np.repeat([0.1, 0.05], 200)
    callback = LightningCallback()
    callback.on_train_start(stand_in(scheduler, optimizer, interval=interval), None)
    np.testing.assert_allclose(callback.watcher._live.lr, expected)


def test_lightning_without_an_end_is_refused():
    with pytest.raises(ArgumentError, match="set max_steps or max_epochs"):
        LightningCallback().on_train_start(stand_in(optimizer=make(), total=math.inf), None)


@pytest.mark.filterwarnings("ignore")
def test_lightning_trainer(tmp_path):
    lightning = pytest.importorskip(
        "pytorch_lightning", reason="a real Trainer needs Lightning"
    )

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, _):
            x, y = batch
            return ((self.layer(x)[:, 0] - y) ** 2).mean() + 0.5

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=3e-2)

    def fitted(callbacks):
        torch.manual_seed(0)
        x = torch.tensor(np.stack([row["x"] for row in dataset()]))
        data = torch.utils.data.TensorDataset(x, x.sum(dim=1))
        trainer = lightning.Trainer(
            max_epochs=30, callbacks=callbacks, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        module = Module()
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=16))
        return module

    watching = LightningCallback(window=2, every=10)
    model, alone = fitted([watching]), fitted([])
    assert [reading.step for reading in watching.readings] == [20, 40, 60, 80, 100, 120]
    assert {reading.steps for reading in watching.readings} == {120}
    assert watching.readings[-1].lower <= 0.5 <= watching.readings[-1].upper
    for name, value in model.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name])


def test_a_reading_is_one_line():
    nothing = LiveReading(5, 100, math.nan, math.nan, math.nan, 0.9, "too early", (), None)
    assert nothing.sentences() == ("Step 5: no forecast yet (too early).",)
