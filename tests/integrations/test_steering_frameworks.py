"""The same run in a plain loop, in Lightning and in a Hugging Face Trainer: same decisions."""

import importlib.util
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossatlas.errors import ArgumentError
from lossatlas.rng import generator
from lossatlas.steering import GrowthPolicy, LandscapeLR, MoMoPolicy, RegimePolicy

STEPS, BATCH, LR = 12, 8, 0.05
drawn = generator(0, "frameworks")
INPUTS = torch.randn(STEPS * BATCH, 6, generator=drawn)
LABELS = torch.randint(0, 3, (STEPS * BATCH,), generator=drawn)
POLICIES = {
    "regime": {"policy": RegimePolicy(hysteresis=1), "interval": 3, "warmup": 2},
    "growth": {"policy": GrowthPolicy(every=2)},
    "momo": {"policy": MoMoPolicy(), "warmup": 0},
}


def network():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3))


def scheduled(optimizer):
    # Goes on from the present rate: whoever steps it on scaled rates gets others.
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0.01)


def plain(kind, inputs=INPUTS, labels=LABELS):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    controller = LandscapeLR(optimizer, scheduler=scheduled(optimizer), **POLICIES[kind])
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        x, y = inputs[rows], labels[rows]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        controller.observe(loss)
        optimizer.step()
        controller.step(lambda x=x, y=y: F.cross_entropy(model(x), y))
    return model, controller.log


def assert_same(found, expected):
    model, log = found
    assert len(log) == len(expected[1]) > 2
    for ours, theirs in zip(log, expected[1], strict=True):
        assert str(ours) == str(theirs)
    for a, b in zip(
        model.state_dict().values(), expected[0].state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def lightning():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pytorch_lightning")


def fit(kind, inputs=INPUTS, labels=LABELS, *, resume=None, steps=STEPS, **settings):
    pl = lightning()
    from lossatlas.integrations.lightning import SteeringCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()
            self.logged = 0

        def training_step(self, batch, index):
            x, y = batch
            loss = F.cross_entropy(self.model(x), y)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=LR, momentum=0.9)
            schedule = {"scheduler": scheduled(optimizer), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    data = torch.utils.data.TensorDataset(inputs, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH)
    module, steering = Module(), SteeringCallback(**POLICIES[kind], **settings)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[steering],
    )  # fmt: skip
    trainer.fit(module, loader, ckpt_path=resume)
    return module, steering, trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", POLICIES)
def test_lightning_decides_as_a_plain_loop(kind):
    module, steering, trainer = fit(kind)
    assert_same((module.model, steering.decisions), plain(kind))
    assert type(trainer.lr_scheduler_configs[0].scheduler).__name__ == "CosineAnnealingLR"


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_and_reports(tmp_path):
    lines = []

    class Run:
        def log(self, values, step):
            lines.append((step, values))

    def loss(module, batch):
        return F.cross_entropy(module.model(batch[0]), batch[1])

    # In mid-epoch Lightning begins with the first batch again: here all are the same.
    same = INPUTS[:BATCH].repeat(STEPS, 1), LABELS[:BATCH].repeat(STEPS)
    _, _, trainer = fit("regime", *same, steps=5, loss=loss, tracker=Run(), log=True)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    assert [step for step, _ in lines] == [3]
    assert lines[0][1]["steering/rate"] > 0
    module, steering, _ = fit("regime", *same, resume=tmp_path / "c.ckpt", loss=loss)
    assert_same((module.model, steering.decisions), plain("regime", *same))


@pytest.mark.filterwarnings("ignore")
def test_lightning_needs_one_optimizer():
    lightning()
    from types import SimpleNamespace

    from lossatlas.integrations.lightning import SteeringCallback

    with pytest.raises(ArgumentError, match="must have one optimizer"):
        SteeringCallback().on_train_start(SimpleNamespace(optimizers=[1, 2]), None)


class Labeled(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = network()

    def forward(self, x, y):
        return {"loss": F.cross_entropy(self.model(x), y)}


def hugging_face(kind, folder, *, optimizers=None, resume=None, **settings):
    transformers = pytest.importorskip("transformers")
    from lossatlas.integrations.huggingface import SteeringMixin

    class Steered(SteeringMixin, transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model = Labeled()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH,
        report_to=[], use_cpu=True, disable_tqdm=True, max_grad_norm=0.0, logging_steps=100,
        save_steps=5, save_strategy="steps",
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    rows = [{"x": x, "y": y} for x, y in zip(INPUTS, LABELS, strict=True)]
    trainer = Steered(
        model=model, args=arguments, train_dataset=rows,
        optimizers=(optimizer, (optimizers or scheduled)(optimizer)),
        steering=POLICIES[kind], **settings,
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return model.model, trainer.decisions


needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="a real Trainer needs accelerate"
)


@needs_accelerate
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", POLICIES)
def test_hugging_face_decides_as_a_plain_loop_and_resumes(kind, tmp_path):
    expected = plain(kind)
    found = hugging_face(kind, tmp_path, tracker=tmp_path / "log.jsonl")
    assert_same(found, expected)
    assert (tmp_path / "log.jsonl").read_text().startswith('{"step": ')
    if kind != "regime":
        return
    resumed = hugging_face(kind, tmp_path, resume=str(tmp_path / "checkpoint-5"))
    assert_same(resumed, expected)


@needs_accelerate
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_takes_a_controller_as_its_scheduler(tmp_path):
    def given(optimizer):
        return LandscapeLR(optimizer, scheduler=scheduled(optimizer), **POLICIES["regime"])

    assert_same(hugging_face("regime", tmp_path, optimizers=given), plain("regime"))
    with pytest.raises(ArgumentError, match="must not need a metric"):
        hugging_face("regime", tmp_path, optimizers=torch.optim.lr_scheduler.ReduceLROnPlateau)
