"""Spikes with planted causes are noticed and their causes named; quiet runs raise no alarm."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError
from lossatlas.guard import set_torch_random_state, torch_random_state
from lossatlas.monitoring import CAUSES, SpikeRecorder, SpikeReport, spikes
from lossatlas.monitoring.replay import Replay
from lossatlas.monitoring.spikes import standing_out
from lossatlas.training import load_dataset

AT, STEPS = 120, 150
DATA = load_dataset("digits")


def make_model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip


def plain_loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def half_loss(model, batch):
    with torch.autocast("cpu", dtype=torch.float16):
        return F.cross_entropy(model(batch[0]).float(), batch[1], reduction="none")


def make_optimizer(model, kind, cause):
    if kind == "sgd":
        lr = 0.6 if cause == "no warm-up" else 0.05
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    lr = 2e-2 if cause == "stale second moments" else 3e-3
    return torch.optim.AdamW(model.parameters(), lr=lr)


def spoiled(cause, step, inputs, targets, drawn):
    """The batch of a step, with the planted cause."""
    if cause == "stale second moments":
        # Columns that were dark come on for good.
        inputs[..., 2:6] *= 0 if step < AT else 3
    if step != AT:
        return inputs, targets
    if cause == "bad batch":
        inputs = torch.randn(inputs.shape, generator=drawn) * 8
    elif cause == "number overflow":
        inputs = inputs * 1e5
    elif cause == "wrong labels":
        targets = (targets + 1 + torch.randint(9, targets.shape, generator=drawn)) % 10
    return inputs, targets


def run(cause, seed, kind="adamw", steps=STEPS, **options):
    """A training with one planted cause, up to its first report."""
    model, drawn = make_model(seed), torch.Generator().manual_seed(seed)
    loss = half_loss if cause == "number overflow" else plain_loss
    optimizer = make_optimizer(model, kind, cause)
    if cause == "stale second moments":
        with torch.no_grad():
            model[1].weight.view(32, 8, 8)[:, :, 2:6] = 0
    recorder = SpikeRecorder(model, optimizer, loss, **options)
    for step in range(steps):
        chosen = torch.randint(len(DATA), (32,), generator=drawn)
        inputs, targets = DATA.inputs[chosen].clone(), DATA.targets[chosen].clone()
        batch = spoiled(cause, step, inputs, targets, drawn)
        if cause == "rate too high" and step == AT:
            for group in optimizer.param_groups:
                group["lr"] *= 60
        if cause == "stale second moments" and step == 30:
            # As after a long training: the bias of the moments is forgotten.
            for state in optimizer.state.values():
                state["exp_avg_sq"] /= 1 - 0.999 ** float(state["step"])
                state["step"] += 100_000
        optimizer.zero_grad()
        value = loss(model, batch).mean()
        value.backward()
        report = recorder.observe(value, batch)
        if report is not None:
            return report, recorder
        optimizer.step()
    return None, recorder


PLANTED = [(cause, kind) for cause in CAUSES[:-1] for kind in ("adamw", "sgd")]
# SGD has no second moments; this network needs no warm-up with AdamW.
PLANTED = [p for p in PLANTED if p not in {(CAUSES[3], "sgd"), ("no warm-up", "adamw")}]


@pytest.mark.parametrize(("cause", "kind"), PLANTED)
def test_planted_causes_are_named(cause, kind):
    found = [run(cause, seed, kind)[0] for seed in range(2)]
    assert [report and report.cause for report in found] == [cause] * 2


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_quiet_trainings_raise_no_alarm(kind):
    for seed in range(2):
        assert run("none", 100 + seed, kind)[0] is None


def test_watching_changes_no_bit_of_the_training():
    def train(watched):
        model = make_model(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        recorder = SpikeRecorder(model, optimizer, plain_loss, keep=4)
        drawn = torch.Generator().manual_seed(0)
        for step in range(60):
            chosen = torch.randint(len(DATA), (16,), generator=drawn)
            batch = (DATA.inputs[chosen], DATA.targets[chosen])
            if step == 45:
                batch = (10 * torch.rand(16, 1, 8, 8, generator=drawn), batch[1])
            optimizer.zero_grad()
            value = plain_loss(model, batch).mean()
            value.backward()
            if watched:
                recorder.observe(value, batch)
            optimizer.step()
        return model, recorder

    (watched, recorder), (alone, _) = train(True), train(False)
    assert recorder.reports
    for first, second in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_report_reads_and_survives_a_file(tmp_path):
    told = []
    report, recorder = run("bad batch", 0, out=tmp_path / "spikes", on_spike=told.append)
    assert told == [report] == recorder.reports
    assert la.load(tmp_path / "spikes" / f"spike-{AT:06d}.nc") == report
    assert report.step == report.update == AT
    assert report.is_faithful
    assert "bad batch" in report.headline()
    assert len(report.layers) == 5
    assert max(report.layers.values()) > 3
    assert set(report.examples) <= {str(place) for place in range(32)}
    assert report.plot() is not None
    la.write_report(report, tmp_path / "spike.html")
    assert "bad batch" in (tmp_path / "spike.html").read_text()
    page = la.write_atlas(tmp_path / "spikes", tmp_path / "atlas.html").read_text()
    assert "A spike of the loss" in page
    assert "bad batch" in page


def test_a_report_that_cannot_be_written_ends_no_training(tmp_path):
    (tmp_path / "full").write_text("")
    with pytest.warns(UserWarning, match="could not be written .* training continues"):
        report, recorder = run("bad batch", 0, out=tmp_path / "full" / "spikes")
    assert recorder.reports == [report]
    assert report.cause == "bad batch"


def test_memory_that_runs_out_while_a_spike_is_explained_ends_no_training(monkeypatch):
    def explain(*_, **__):
        raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    monkeypatch.setattr(spikes, "explain", explain)
    report, _ = run("bad batch", 0)
    assert report.cause == "unexplained"
    assert "tried to allocate" in report.note


def test_the_replay_is_the_training():
    report, recorder = run("rate too high", 0, "sgd")
    recorded = [e.loss for e in recorder._entries if e.step >= report.steps[0]]
    np.testing.assert_allclose(report.losses, recorded)
    assert report.is_faithful
    helped = {trial.change: trial.helps for trial in report.trials}
    assert set(helped) >= {
        "skipping the batch",
        "another batch in its place",
        "a quarter of the learning rate",
    }
    # The rate was raised by the update before the spike: any batch would have done it.
    assert (
        helped["another batch in its place"] < 0.7 < helped["no increase of the learning rate"]
    )


def test_dropout_is_made_again_where_the_random_state_was_noted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = lambda model, batch: (model(batch) - 1).square().mean()  # noqa: E731
    recorder = SpikeRecorder(model, optimizer, loss, keep=8)
    for step in range(40):
        # Something else draws between the steps, as a data loader does.
        batch = torch.rand(8, 4) * (1000 if step == 39 else 1)
        recorder.begin()
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        report = recorder.observe(value, batch)
        optimizer.step()
    assert report.is_faithful
    recorded = [entry.loss for entry in recorder._entries if entry.step >= report.steps[0]]
    np.testing.assert_allclose(report.losses, recorded, rtol=1e-5)
    again = Replay(model, optimizer, loss)
    again.load(recorder._snapshots[0])
    entries = [e for e in recorder._entries if e.step >= recorder._snapshots[0].step]
    for entry in entries:
        assert again.gradient(entry) == pytest.approx(entry.loss, rel=1e-5)
        again.apply(entry)


def test_random_states_of_cards_are_kept_and_set(monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["a", "b"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", told.append)
    state = torch_random_state()
    drawn = torch.rand(2)
    set_torch_random_state(state)
    assert torch.equal(torch.rand(2), drawn)
    assert told == [["a", "b"]]


def test_a_training_that_cannot_be_made_again_says_so():
    model = make_model(0)
    model.lock = __import__("threading").Lock()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = SpikeRecorder(model, optimizer, plain_loss)
    batch = (DATA.inputs[:8], DATA.targets[:8])
    for step in range(20):
        optimizer.zero_grad()
        plain_loss(model, batch).mean().backward()
        report = recorder.observe(1e6 if step == 19 else 1.0 - 0.001 * step, batch)
    assert report.cause == "unexplained"
    assert "cannot be copied" in report.note


def test_a_loss_that_is_not_finite_is_a_spike():
    report, _ = run("number overflow", 3, steps=AT + 1)
    assert report.deviations == float("inf")


def test_no_gradient_is_named():
    model = make_model(0)
    recorder = SpikeRecorder(model, torch.optim.SGD(model.parameters(), 0.1), plain_loss)
    with pytest.raises(ArgumentError, match="after loss"):
        recorder.observe(1.0, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"keep": 1}, "keep"), ({"window": 3}, "window"), ({"threshold": 0}, "threshold"),
     ({"max_norm": -1}, "max_norm"), ({"on_spike": 3}, "on_spike"), ({"loss": 3}, "loss"),
     ({"optimizer": 3}, "optimizer"), ({"model": 3}, "model")],
)  # fmt: skip
def test_what_cannot_be_is_named(options, said):
    model = make_model(0)
    usual = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "loss": plain_loss,
    }
    with pytest.raises(ArgumentError, match=said):
        SpikeRecorder(**usual | options)


def test_noise_alone_seldom_stands_out():
    drawn = np.random.default_rng(0)
    noisy = np.exp(0.3 * drawn.standard_normal((400, 51)))
    assert sum(standing_out(row, 8.0) is not None for row in noisy) <= 2
    noisy[:, -1] = 30
    assert sum(standing_out(row, 8.0) is not None for row in noisy) >= 390


def test_unexplained_reports_have_all_promises(tmp_path):
    report = SpikeReport.unexplained(3, 9.0, 12.0, "the model cannot be copied")
    assert la.load(report.save(tmp_path / "r.nc")) == report
    assert report.sentences()
