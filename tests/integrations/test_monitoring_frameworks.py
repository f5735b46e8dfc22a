"""Monitors and spike recorders in Lightning and in a Hugging Face Trainer."""

import json

import numpy as np
import pytest
import torch
from test_steering_frameworks import (
    BATCH,
    INPUTS,
    LABELS,
    LR,
    STEPS,
    Labeled,
    lightning,
    needs_accelerate,
    network,
)
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError
from lossatlas.rng import generator

loss = la.supervised(F.cross_entropy)
# One batch whose inputs are much larger than the others.
BAD = 20
LONG = torch.cat([INPUTS] * 2).clone()
LONG[BAD * BATCH : (BAD + 1) * BATCH] *= 300


def plain(inputs):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    labels = torch.cat([LABELS] * 2)
    for x, y in zip(inputs.split(BATCH), labels.split(BATCH), strict=False):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def held_out(module):
    return la.Objective(module, lambda m, b: loss(m.model, b), [(INPUTS[:24], LABELS[:24])])


def linear():
    # Nothing in it bounds what a bad batch does to the loss.
    model = torch.nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.copy_(0.1 * torch.randn(3, 6, generator=generator("linear")))
        model.bias.zero_()
    return model


def fit(inputs, tmp_path, callbacks, path=None, steps=0, make=network, **options):
    pl = lightning()

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make()

        def training_step(self, batch, index):
            value = F.cross_entropy(self.model(batch[0]), batch[1])
            self.log("seen", value)
            return value

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=LR, momentum=0.9)

    module = Module()
    made = [each(module) for each in callbacks]
    data = torch.utils.data.TensorDataset(inputs, torch.cat([LABELS] * 2)[: len(inputs)])
    trainer = pl.Trainer(
        max_steps=steps or len(inputs) // BATCH, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, accelerator="cpu",
        callbacks=made, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, BATCH), ckpt_path=path)
    return trainer, module, made


@pytest.mark.filterwarnings("ignore")
def test_several_monitors_of_one_lightning_trainer_have_names(tmp_path):
    lightning()
    from lossatlas.integrations.lightning import MonitorCallback

    def watch(name):
        def made(module):
            monitor = la.Monitor(held_out(module), ("loss",), every=4, share=None)
            return MonitorCallback(monitor, name=name)

        return made

    trainer, _, callbacks = fit(INPUTS, tmp_path, [watch("first"), watch("second")])
    assert len({callback.state_key for callback in callbacks}) == 2
    logged = [name for name in trainer.callback_metrics if "loss" in name]
    assert {name.partition("/")[0] for name in logged} >= {"first", "second"}


@pytest.mark.filterwarnings("ignore")
def test_lightning_reads_within_the_training_and_resumes(tmp_path):
    lightning()
    from lossatlas.integrations.lightning import MonitorCallback

    def watch(module):
        names = ("loss", "stability")
        return MonitorCallback(
            la.Monitor(
                held_out(module), names, every=4, share=None, to=tmp_path / "m.nc", resume=True
            )
        )

    trainer, module, (callback,) = fit(INPUTS, tmp_path, [watch])
    for ours, theirs in zip(module.model.parameters(), plain(INPUTS).parameters(), strict=True):
        assert torch.equal(ours, theirs)
    log = callback.monitor.log
    assert log.steps.tolist() == [4, 8, 12]
    assert not log.missing
    assert {"loss", "training loss"} <= set(log.names)
    assert la.load(tmp_path / "m.nc") == log
    assert {"monitor/loss", "seen"} <= set(trainer.logged_metrics)
    part, _, _ = fit(INPUTS, tmp_path, [watch], steps=6)
    part.save_checkpoint(tmp_path / "part.ckpt")
    _, _, (again,) = fit(INPUTS, tmp_path, [watch], path=tmp_path / "part.ckpt", steps=8)
    assert again.monitor.log.steps.tolist() == [4, 8]


@pytest.mark.filterwarnings("ignore")
def test_lightning_explains_a_spike(tmp_path):
    lightning()
    from lossatlas.integrations.lightning import SpikeCallback

    def record(module):
        return SpikeCallback(out=tmp_path / "spikes", keep=8)

    _, _, (callback,) = fit(LONG, tmp_path, [record], make=linear, gradient_clip_val=50.0)
    assert callback.recorder.step == 2 * STEPS
    assert callback.recorder.max_norm == 50.0
    report = callback.reports[0]
    assert (report.step, report.cause, report.is_faithful) == (BAD, "bad batch", True)
    assert la.load(tmp_path / "spikes" / f"spike-{BAD:06d}.nc") == report


@pytest.mark.filterwarnings("ignore")
def test_batches_of_an_accumulated_update_are_one_step(tmp_path):
    lightning()
    from lossatlas.integrations.lightning import SpikeCallback

    def record(module):
        return SpikeCallback(lambda m, b: loss(m.model, b), keep=8)

    _, _, (callback,) = fit(LONG, tmp_path, [record], steps=STEPS, accumulate_grad_batches=2)
    assert callback.recorder.step == STEPS
    entry = callback.recorder._entries[-1]
    assert len(entry.batch) == 2


def hugging_face(kind, folder, inputs, **options):
    transformers = pytest.importorskip("transformers")

    class InOrder(kind):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "out"), max_steps=len(inputs) // BATCH, save_steps=6,
        per_device_train_batch_size=BATCH, report_to=[], use_cpu=True, disable_tqdm=True,
        max_grad_norm=0.0, logging_steps=4, learning_rate=LR, lr_scheduler_type="constant",
    )  # fmt: skip
    labels = torch.cat([LABELS] * 2)
    rows = [{"x": x, "y": y} for x, y in zip(inputs, labels, strict=False)]
    trainer = InOrder(model=Labeled(), args=arguments, train_dataset=rows, **options)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


@pytest.mark.filterwarnings("ignore")
@needs_accelerate
def test_hugging_face_reads_and_keeps_its_readings(tmp_path):
    transformers = pytest.importorskip("transformers")
    from lossatlas.integrations.huggingface import MonitorCallback

    def train(steps=None, **resumed):
        trainer = hugging_face(transformers.Trainer, tmp_path, INPUTS)
        objective = la.Objective(
            trainer.model, lambda m, b: loss(m.model, b), [(INPUTS[:24], LABELS[:24])]
        )
        watch = la.Monitor(objective, ("loss",), every=3, share=None)
        trainer.add_callback(MonitorCallback(watch))
        trainer.train(**resumed)
        return trainer, watch

    _, watch = train()
    assert watch.log.steps.tolist() == [3, 6, 9, 12]
    assert "training loss" in watch.log.names
    kept = json.loads((tmp_path / "out" / "checkpoint-6" / "monitor.json").read_text())
    assert kept["steps"] == [3, 6]
    _, again = train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    assert again.log.steps.tolist() == [3, 6, 9, 12]
    np.testing.assert_array_equal(again.log.series("loss")[1], watch.log.series("loss")[1])


@pytest.mark.filterwarnings("ignore")
@needs_accelerate
def test_hugging_face_explains_a_spike(tmp_path):
    transformers = pytest.importorskip("transformers")
    from lossatlas.integrations.huggingface import SpikeMixin

    class RecordedTrainer(SpikeMixin, transformers.Trainer):
        pass

    trainer = hugging_face(RecordedTrainer, tmp_path, LONG, spikes={"keep": 8})
    trainer.model.model = linear()
    trainer.train()
    report = trainer.spike_reports[0]
    assert (report.step, report.cause, report.is_faithful) == (BAD, "bad batch", True)


def test_callbacks_name_what_they_need():
    lightning()
    from lossatlas.integrations.lightning import MonitorCallback

    with pytest.raises(ArgumentError, match="monitor"):
        MonitorCallback(3)
