"""Averages in a plain loop, in Lightning and in a Hugging Face Trainer: the same bits."""

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

from lossatlas.errors import ArgumentError
from lossatlas.steering import PolynomialAverage

BATCHES = [(x, y) for x, y in zip(INPUTS.split(BATCH), LABELS.split(BATCH), strict=True)]


def plain(steps=STEPS):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    average = PolynomialAverage(model)
    for x, y in BATCHES[:steps]:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        average.update()
    return average


def assert_same(average, expected, prefix="model."):
    assert average.count == expected.count
    for gamma in expected.gammas:
        ours, theirs = (a.state_dict()["averages"][f"{gamma:g}"] for a in (average, expected))
        assert {n.removeprefix(prefix) for n in ours} == set(theirs)
        for name, value in theirs.items():
            assert torch.equal(ours[prefix + name], value)


@pytest.mark.filterwarnings("ignore")
def test_lightning_averages_validates_and_resumes(tmp_path):
    pl = lightning()
    from lossatlas.integrations.lightning import AverageCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()
            self.seen = []

        def forward(self, x):
            return self.model(x)

        def training_step(self, batch, index):
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.seen.append(self.model[0].weight.detach().clone())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=LR, momentum=0.9)

    def fit(steps, resume=None):
        data = torch.utils.data.TensorDataset(INPUTS, LABELS)
        loader = torch.utils.data.DataLoader(data, batch_size=BATCH)
        module, averaging = Module(), AverageCallback(batches=3)
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[averaging],
            limit_val_batches=1, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, loader, loader, ckpt_path=resume)
        return module, averaging, trainer

    module, averaging, trainer = fit(STEPS)
    assert_same(averaging.average, plain())
    assert torch.equal(module.seen[-1], averaging.average.average["model.0.weight"])
    assert not torch.equal(module.model[0].weight, module.seen[-1])
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    _, resumed, _ = fit(STEPS + 1, tmp_path / "c.ckpt")
    assert resumed.average.count == STEPS + 1


def bare_module(pl, **methods):
    """A module with BatchNorm that runs only through its steps."""

    class Bare(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()

        def training_step(self, batch, index):
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, index):
            self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=LR, momentum=0.9)

    for name, method in methods.items():
        setattr(Bare, name, method)
    return Bare()


def fit_bare(pl, module, **options):
    from lossatlas.integrations.lightning import AverageCallback

    data = torch.utils.data.TensorDataset(INPUTS, LABELS)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH)
    averaging = AverageCallback(**options)
    trainer = pl.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[averaging],
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    return trainer, averaging.average


@pytest.mark.filterwarnings("ignore")
def test_a_module_without_forward_is_run_through_its_steps():
    pl = lightning()
    module = bare_module(pl)
    trainer, average = fit_bare(pl, module, batches=len(BATCHES))
    assert_same(average, plain())
    # Logged: the average. Held: the weights of the training.
    logged = float(trainer.callback_metrics["val_loss"])
    raw = [value.clone() for value in module.state_dict().values()]
    with average.swapped():
        module.eval()
        losses = [F.cross_entropy(module.model(x), y).item() for x, y in BATCHES]
    assert logged == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    for before, after in zip(raw, module.state_dict().values(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.filterwarnings("ignore")
def test_a_forward_that_does_not_fit_fails_before_the_first_update():
    pl = lightning()
    module = bare_module(pl, forward=lambda self, first, second: first)
    before = module.model[0].weight.detach().clone()
    with pytest.raises(ArgumentError, match="give forward=lambda model, batch:"):
        fit_bare(pl, module)
    assert torch.equal(module.model[0].weight, before)


@pytest.mark.filterwarnings("ignore")
def test_manual_optimization_is_never_run_to_estimate_statistics():
    pl = lightning()

    def by_hand(self, batch, index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.model(batch[0]), batch[1]))
        optimizer.step()

    module = bare_module(pl, training_step=by_hand, automatic_optimization=False)
    _, average = fit_bare(pl, module)
    assert average.count == STEPS
    # Without any step to run it is said as the training starts.
    lost = bare_module(
        pl, training_step=by_hand, automatic_optimization=False,
        validation_step=pl.LightningModule.validation_step,
    )  # fmt: skip
    with pytest.raises(ArgumentError, match=r"has BatchNorm layers.*no `forward` to run it"):
        fit_bare(pl, lost)


@needs_accelerate
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_averages_evaluates_and_resumes(tmp_path):
    transformers = pytest.importorskip("transformers")
    from lossatlas.integrations.huggingface import AverageCallback, AverageMixin

    class Averaged(AverageMixin, transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    batches = [{"x": x, "y": y} for x, y in BATCHES]

    def trained(resume=None):
        model = Labeled()
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=BATCH,
            report_to=[], use_cpu=True, disable_tqdm=True, max_grad_norm=0.0, save_steps=5,
            logging_steps=100, lr_scheduler_type="constant", save_strategy="steps",
            label_names=["y"], prediction_loss_only=True,
        )  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
        rows = [{"x": x, "y": y} for x, y in zip(INPUTS, LABELS, strict=True)]
        callback = AverageCallback(batches=batches)
        trainer = Averaged(
            model=model, args=arguments, train_dataset=rows, eval_dataset=rows,
            optimizers=(optimizer, None), callbacks=[callback],
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=resume)
        return trainer, callback.average

    trainer, average = trained()
    assert_same(average, plain())
    shown = trainer.evaluate()["eval_loss"]
    with average.swapped():
        assert trainer.evaluate()["eval_loss"] == shown
        trainer.model.eval()
        loss = F.cross_entropy(trainer.model.model(INPUTS), LABELS).item()
    assert shown == pytest.approx(loss, rel=1e-5)
    _, resumed = trained(str(tmp_path / "checkpoint-5"))
    assert_same(resumed, plain())
    (tmp_path / "checkpoint-5" / "weight_average.safetensors").unlink()
    with pytest.raises(ArgumentError, match="has no averages"):
        trained(str(tmp_path / "checkpoint-5"))
