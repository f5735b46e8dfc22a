import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lossatlas.errors import (
    ArgumentError,
    LossError,
    ModelError,
    StructureError,
    UnknownNameError,
)
from lossatlas.objective import supervised
from lossatlas.training import (
    Dataset,
    build_model,
    evaluate_ensemble,
    initial_weights,
    train,
    train_ensemble,
)
from reference.training_twin import train_alone


def vectors(n=22, features=5, classes=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(3)
    inputs = torch.randn(n, features, generator=g, dtype=dtype)
    targets = torch.randint(classes, (n,), generator=g)
    return Dataset(inputs, targets, classes=tuple("abc"[:classes]))


def pictures(n=20):
    g = torch.Generator().manual_seed(4)
    inputs = torch.randn(n, 1, 8, 8, generator=g, dtype=torch.float64)
    return Dataset(inputs, torch.randint(3, (n,), generator=g), classes=("a", "b", "c"))


def doubles(starts):
    return [{name: value.double() for name, value in start.items()} for start in starts]


def alone(model, start):
    model.load_state_dict(start, strict=False)
    return model


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)
    ).double()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.b.weight = self.a.weight
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))))


ARCHITECTURES = {
    "dense": (lambda: build_model("mlp(6, 4)", vectors()).double(), vectors),
    "tanh": (lambda: build_model("mlp(6, activation=tanh)", vectors()).double(), vectors),
    "batchnorm": (convolutional, pictures),
    "tied": (lambda: Tied().double(), vectors),
}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_member_is_what_it_would_be_alone(name, optimizer):
    make, data = ARCHITECTURES[name][0], ARCHITECTURES[name][1]()
    starts = [{n: p.detach().clone() for n, p in make().named_parameters()} for _ in range(3)]
    lr, decay, orders = [0.02, 0.05, 0.01], [0.0, 0.01, 0.1], [5, 6, 5]
    run = train_ensemble(
        make(),
        data,
        initial=starts,
        orders=orders,
        steps=7,
        batch_size=8,
        optimizer=optimizer,
        lr=lr,
        weight_decay=decay,
        schedule="cosine",
    )
    for i, start in enumerate(starts):
        losses, twin = train_alone(
            alone(make(), start),
            data,
            steps=7,
            order=orders[i],
            optimizer=optimizer,
            lr=lr[i],
            weight_decay=decay[i],
            cosine=True,
        )
        assert_close(torch.from_numpy(run.losses[:, i]), torch.tensor(losses).double())
        state = twin.state_dict()
        for key, value in run.member(i).items():
            assert_close(value, state[key], msg=lambda text, key=key: f"{key}: {text}")


@given(
    members=st.integers(1, 5),
    together=st.integers(1, 5),
    own=st.booleans(),
    momentum=st.sampled_from([0.0, 0.9]),
)
def test_grouping_and_company_change_nothing(members, together, own, momentum):
    data = vectors()
    model = build_model("mlp(4)", data).double()
    starts = doubles(initial_weights("mlp(4)", data, seeds=range(members)))
    orders = list(range(members)) if own else 0
    settings = {"steps": 4, "batch_size": 10, "momentum": momentum}
    run = train_ensemble(
        model, data, initial=starts, orders=orders, together=together, **settings
    )
    last = train_ensemble(
        model, data, initial=starts[-1:], orders=members - 1 if own else 0, **settings
    )
    assert_close(run.losses[:, -1], last.losses[:, 0])
    for name, value in last.member(0).items():
        assert_close(run.states[name][-1], value)


def test_it_agrees_with_the_training_loop_and_repeats_bit_for_bit():
    data = vectors(dtype=torch.float32)
    starts = initial_weights("mlp(8)", data, seeds=range(3))
    settings = {"epochs": 3, "batch_size": 7, "schedule": "cosine"}
    model = build_model("mlp(8)", data)
    first, second = (
        train_ensemble(model, data, initial=starts, orders=[0, 1, 2], **settings) for _ in "ab"
    )
    assert np.array_equal(first.losses, second.losses)
    assert all(torch.equal(v, second.states[n]) for n, v in first.states.items())
    for i in range(3):
        run = train(build_model("mlp(8)", data, seed=i), data, seed=i, **settings)
        np.testing.assert_allclose(first.losses[:, i], run.losses, rtol=2e-5)


def test_any_loss_of_model_and_batch_will_do():
    data = vectors()
    model = build_model("mlp(4)", data).double()
    starts = doubles(initial_weights("mlp(4)", data, seeds=[0, 1]))
    own = train_ensemble(
        model, data, supervised(F.cross_entropy), initial=starts, steps=3, batch_size=8
    )
    named = train_ensemble(model, data, initial=starts, steps=3, batch_size=8)
    np.testing.assert_allclose(own.losses, named.losses, rtol=1e-10)


def test_batches_of_ones_own_form():
    model = nn.Linear(2, 1, bias=False).double()
    batches = [{"x": torch.eye(2).double()}, {"x": torch.ones(1, 2).double()}]
    starts = [{"weight": torch.tensor([[float(i), 1.0]]).double()} for i in range(2)]
    run = train_ensemble(
        model,
        batches,
        lambda m, b: m(b["x"]).square().mean(),
        initial=starts,
        steps=2,
        lr=0.5,
        momentum=0.0,
    )
    # A step at rate 1/2 on (w0^2 + w1^2) / 2 halves the weights; then the loss is their sum^2.
    np.testing.assert_allclose(run.losses, [[0.5, 1.0], [0.25, 1.0]])


def test_a_diverging_member_is_named_and_the_others_go_on():
    data = vectors()
    model = build_model("mlp(4)", data).double()
    starts = doubles(initial_weights("mlp(4)", data, seeds=[0, 1, 2]))
    rates = [0.05, 1e200, 0.05]
    run = train_ensemble(model, data, initial=starts, orders=0, lr=rates, steps=6, keep=[3])
    at = int(run.diverged_at[1])
    assert run.diverged_at.tolist()[::2] == [-1, -1]
    assert 0 < at < 6
    assert not np.isfinite(run.losses[at, 1])
    assert np.isnan(run.losses[at + 1 :, 1]).all()
    assert np.isfinite(run.losses[:, ::2]).all()
    _, twin = train_alone(alone(model, starts[0]), data, steps=6, lr=0.05, batch_size=32)
    for name, value in run.member(0).items():
        assert_close(value, twin.state_dict()[name])


def test_a_diverged_member_stays_at_its_last_point_as_alone():
    data = pictures()
    model = convolutional()
    with torch.no_grad():
        model[4].bias.fill_(torch.inf)
    sick = {n: p.detach().clone() for n, p in model.named_parameters()}
    well = {n: p.detach().clone() for n, p in convolutional().named_parameters()}
    run = train_ensemble(model, data, initial=[sick, well], steps=4, batch_size=8)
    assert run.diverged_at.tolist() == [0, -1]
    losses, twin = train_alone(alone(convolutional(), sick), data, steps=4)
    assert len(losses) == 1
    for name, value in run.member(0).items():
        assert_close(value, twin.state_dict()[name], equal_nan=True)


def test_weights_that_break_in_the_last_update_are_seen():
    start = {"weight": torch.tensor([[1e200]], dtype=torch.float64)}
    run = train_ensemble(
        nn.Linear(1, 1, bias=False).double(),
        [torch.ones(1, 1).double()],
        lambda m, b: m(b).mean(),
        initial=[start],
        steps=1,
        lr=1e308,
        weight_decay=1e3,
    )
    assert np.isfinite(run.losses).all()
    assert run.diverged_at.tolist() == [1]


def test_checkpoints_run_from_start_to_end():
    data = vectors()
    model = build_model("mlp(4)", data).double()
    starts = doubles(initial_weights("mlp(4)", data, seeds=[0, 1, 2]))
    run = train_ensemble(model, data, initial=starts, steps=5, keep=3, together=2)
    assert run.checkpoint_steps == (0, 2, 5)
    for name, value in run.states.items():
        assert torch.equal(run.checkpoints[0][name], torch.stack([s[name] for s in starts]))
        assert torch.equal(run.checkpoints[-1][name], value)


@pytest.mark.parametrize("name", ["dense", "batchnorm"])
def test_evaluation_is_the_mean_loss_of_each(name):
    make, data = ARCHITECTURES[name][0], ARCHITECTURES[name][1]()
    models = [make() for _ in range(3)]
    run = train_ensemble(
        models[0],
        data,
        initial=[dict(m.named_parameters()) for m in models],
        steps=2,
        batch_size=10,
    )
    got = evaluate_ensemble(models[0], run.states, data, batch_size=9, together=2)
    wrong = evaluate_ensemble(models[0], run.states, data, "error", batch_size=9)
    for i in range(3):
        model = make().eval()
        model.load_state_dict(run.member(i))
        with torch.no_grad():
            output = model(data.inputs)
        assert got[i] == pytest.approx(F.cross_entropy(output, data.targets).item(), rel=1e-9)
        assert wrong[i] == pytest.approx(
            (output.argmax(1) != data.targets).double().mean().item(), rel=1e-6
        )


def test_a_transformer_trains_as_it_does_alone():
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(5, (6, 9), generator=g)
    data = Dataset(codes[:, :-1], codes[:, 1:], task="language", vocabulary=tuple("abcde"))
    spec = "chargpt(layers=1, width=8, heads=2)"
    starts = initial_weights(spec, data, seeds=[0, 1])
    run = train_ensemble(
        build_model(spec, data), data, initial=starts, orders=[0, 1], steps=3, batch_size=4
    )
    for i in range(2):
        solo = train(build_model(spec, data, seed=i), data, seed=i, steps=3, batch_size=4)
        np.testing.assert_allclose(run.losses[:, i], solo.losses, rtol=1e-4)


def test_nothing_is_touched():
    data = pictures()
    model = convolutional()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    starts = [{n: p.detach() for n, p in model.named_parameters()}] * 2
    kept = {name: value.clone() for name, value in starts[0].items()}
    train_ensemble(model, data, initial=starts, orders=[1, 2], steps=2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, kept[name]) for name, value in starts[0].items())
    assert all(p.grad is None for p in model.parameters())


def test_frozen_layers_stay():
    data = vectors()
    model = build_model("mlp(4)", data).double()
    model.fc1.requires_grad_(False)
    starts = [{n: p.detach() for n, p in model.named_parameters() if p.requires_grad}] * 2
    run = train_ensemble(model, data, initial=starts, lr=[0.1, 0.2], steps=2, batch_size=8)
    assert set(run.states) == {"fc2.weight", "fc2.bias"}
    _, twin = train_alone(model, data, steps=2, lr=0.2)
    assert_close(run.member(1)["fc2.weight"], twin.fc2.weight.detach())


BAD = {
    "no members": ({"initial": []}, ArgumentError, "`initial` must be a list"),
    "rates": ({"lr": [0.1, 0.2, 0.3]}, ArgumentError, "`lr` must be a number or 2 numbers"),
    "zero rate": ({"lr": 0.0}, ArgumentError, "above 0"),
    "nan rate": ({"lr": float("nan")}, ArgumentError, "finite"),
    "decay": ({"weight_decay": -1.0}, ArgumentError, "`weight_decay`"),
    "orders": ({"orders": [1]}, ArgumentError, "`orders` must be one seed or 2"),
    "optimizer": ({"optimizer": "adamv"}, UnknownNameError, "did you mean 'adamw'"),
    "schedule": ({"schedule": "cosin"}, UnknownNameError, "did you mean 'cosine'"),
    "loss": ({"loss": "cross_entrop"}, UnknownNameError, "did you mean 'cross_entropy'"),
    "both": ({"epochs": 2}, ArgumentError, "either .epochs. or .steps."),
    "together": ({"together": 0}, ArgumentError, "`together`"),
    "keep": ({"keep": [9]}, ArgumentError, "`keep` must contain steps up to 3"),
    "keep one": ({"keep": 1}, ArgumentError, "at least 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_named(case):
    data = vectors()
    changed, error, words = BAD[case]
    settings = {"initial": initial_weights("mlp(4)", data, seeds=[0, 1]), "steps": 3} | changed
    loss = settings.pop("loss", None)
    with pytest.raises(error, match=words):
        train_ensemble(build_model("mlp(4)", data), data, loss, **settings)


def test_starts_that_do_not_fit_are_named():
    data = vectors()
    starts = initial_weights("mlp(5)", data, seeds=[0])
    with pytest.raises(StructureError, match=r"fc1\.weight"):
        train_ensemble(build_model("mlp(4)", data), data, initial=starts, steps=1)
    with pytest.raises(ModelError, match="no trainable"):
        train_ensemble(nn.ReLU(), data, initial=starts, steps=1)
    with pytest.raises(StructureError, match=r"fc1\.bias"):
        evaluate_ensemble(
            build_model("mlp(4)", data), {"fc1.weight": torch.ones(1, 4, 5)}, data
        )


def test_given_batches_have_one_order():
    data = vectors()
    starts = initial_weights("mlp(4)", data, seeds=[0, 1])
    batches = vectors(dtype=torch.float32).batches(8)
    run = train_ensemble(build_model("mlp(4)", data), batches, initial=starts, epochs=1)
    assert run.losses.shape == (3, 2)
    with pytest.raises(ArgumentError, match="`orders`"):
        train_ensemble(
            build_model("mlp(4)", data), batches, initial=starts, orders=[0, 1], steps=1
        )


@pytest.mark.parametrize("batches", [[[1.0, 2.0], [3.0]], ["a", "b"], range(3)])
def test_batches_that_do_not_fit_are_named(batches):
    data = vectors()
    model, starts = build_model("mlp(4)", data), initial_weights("mlp(4)", data, seeds=[0])
    stacked = {name: value[None] for name, value in starts[0].items()}
    with pytest.raises(
        LossError, match=r"`loss` failed .* check that model, loss and data match"
    ):
        train_ensemble(model, batches, initial=starts, steps=1)
    with pytest.raises(
        LossError, match=r"`loss` failed .* check that model, loss and data match"
    ):
        evaluate_ensemble(model, stacked, batches)
