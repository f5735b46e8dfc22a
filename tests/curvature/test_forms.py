import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import lossatlas as la
from lossatlas.curvature import gauss_newton, hessian
from lossatlas.errors import LossError
from reference import curvature_dense as dense
from reference.curvature_cases import Tied, classes, initialized, mlp, normal

CACHE = pytest.mark.parametrize("cache", [True, False], ids=["cached", "streamed"])


# Losses that are linear on some batches


def _far_and_near(model):
    x = normal(4, 4)
    near = model(x).detach() + 0.1
    return (x, near + 100), (x, near)


@CACHE
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0, 1)])
def test_a_loss_may_be_linear_on_some_batches(order, cache):
    model = mlp()
    pair = _far_and_near(model)
    objective = la.Objective(model, la.supervised(F.huber_loss), [pair[i] for i in order])
    near = la.Objective(model, la.supervised(F.mse_loss), [pair[1]])
    # Inside, half of the squared error.
    want = dense.gauss_newton(near) / 2 / len(order)
    got = dense.matrix_of(gauss_newton(objective, cache=cache))
    assert_close(got, want, rtol=1e-9, atol=1e-11)


@CACHE
def test_a_loss_that_is_linear_on_all_batches_is_named(cache):
    model = mlp()
    far, _ = _far_and_near(model)
    objective = la.Objective(model, la.supervised(F.huber_loss), [far, far])
    matrix = gauss_newton(objective, cache=cache)
    with pytest.raises(
        LossError, match=r"linear in the model's outputs on every batch.*hessian"
    ):
        matrix.flat(normal(matrix.size))


class _Walk:
    def __init__(self, batches):
        self.batches, self.place = batches, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.place += 1
        if self.place > len(self.batches):
            raise StopIteration
        return self.batches[self.place - 1]


class _Kept:
    """As a DataLoader whose workers persist: all walks are one, which `iter` sets back."""

    persistent_workers = True

    def __init__(self, batches):
        self.walk = _Walk(batches)

    def __iter__(self):
        self.walk.place = 0
        return self.walk


def test_kept_workers_are_not_walked_twice_at_once():
    model = mlp()
    far, near = _far_and_near(model)
    batches = [far, near, near]
    criterion = la.supervised(F.huber_loss)
    kept, listed = (la.Objective(model, criterion, b) for b in (_Kept(batches), batches))
    vector = normal(gauss_newton(listed).size)
    assert_close(gauss_newton(kept).flat(vector), gauss_newton(listed).flat(vector))


# Losses that read more than the model's outputs


def _penalized(model, batch, read):
    return F.cross_entropy(model(batch[0]), batch[1]) + 0.5 * read(model)


def _squares(model):
    return sum(value.square().sum() for value in model.parameters())


PENALTIES = {
    "all weights": (_squares, r"'0\.weight'"),
    "one layer": (lambda m: m[2].weight.square().sum(), r"'2\.weight'"),
    "absolute values": (lambda m: m[0].bias.abs().sum(), r"'0\.bias'"),
    "weights in a product": (
        lambda m: (m[2].weight @ m[0].weight).square().sum(),
        r"'0\.weight'",
    ),
}


@CACHE
@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_on_the_weights_is_named(name, cache):
    read, match = PENALTIES[name]
    objective = la.Objective(
        mlp(), lambda m, b: _penalized(m, b, read), [(normal(6, 4), classes(6, 3))]
    )
    matrix = gauss_newton(objective, cache=cache)
    with pytest.raises(LossError, match=rf"reads {match}.*curvature='hessian'"):
        matrix.flat(normal(matrix.size))
    # The Hessian holds all of it.
    hessian(objective, cache=cache).flat(normal(matrix.size))


def test_a_penalty_on_weights_at_zero_is_named():
    model = mlp()
    nn.init.zeros_(model[2].weight)
    objective = la.Objective(
        model,
        lambda m, b: _penalized(m, b, lambda m: m[2].weight.square().sum()),
        [(normal(6, 4), classes(6, 3))],
    )
    with pytest.raises(LossError, match=r"2\.weight"):
        gauss_newton(objective).flat(normal(gauss_newton(objective).size))


def test_a_penalty_on_the_second_batch_alone_is_named():
    def loss(model, batch):
        x, y, weight = batch
        return F.cross_entropy(model(x), y) + (
            weight.mean() * _squares(model) if weight.any() else 0
        )

    x, y = normal(6, 4), classes(6, 3)
    objective = la.Objective(mlp(), loss, [(x, y, torch.zeros(6)), (x, y, torch.ones(6))])
    with pytest.raises(LossError, match="penalty"):
        gauss_newton(objective).flat(normal(gauss_newton(objective).size))


def test_a_penalty_on_other_parameters_does_not_matter():
    batch = (normal(6, 4), classes(6, 3))
    model = mlp()
    part = gauss_newton(
        la.Objective(
            model, lambda m, b: _penalized(m, b, lambda m: m[0].weight.square().sum()), [batch]
        ),
        names="2.*",
    )
    plain = gauss_newton(
        la.Objective(model, la.supervised(F.cross_entropy), [batch]), names="2.*"
    )
    assert_close(dense.matrix_of(part), dense.matrix_of(plain))


def test_a_term_that_adds_nothing_does_not_matter():
    batch = (normal(6, 4), classes(6, 3))
    model = mlp()
    touched = la.Objective(
        model, lambda m, b: _penalized(m, b, lambda m: 0.0 * m[0].weight.sum()), [batch]
    )
    plain = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    assert_close(dense.matrix_of(gauss_newton(touched)), dense.matrix_of(gauss_newton(plain)))


class _Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, x):
        hidden = self.body[1](self.body[0](x))
        self.kept = hidden.square().mean()
        return self.body[2](hidden)


@CACHE
def test_a_term_that_the_model_keeps_beside_its_answer_is_named(cache):
    objective = la.Objective(
        _Keeping(),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]) + m.kept,
        [(normal(6, 4), classes(6, 3))],
    )
    matrix = gauss_newton(objective, cache=cache)
    with pytest.raises(LossError, match=r"reads 'body\.0\.weight'"):
        matrix.flat(normal(matrix.size))


# Models and losses of other forms


class _Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, x):
        hidden = self.body[0](x)
        logits = self.body[2](self.body[1](hidden))
        return {"logits": logits, "best": logits.argmax(1), "parts": [hidden]}


@CACHE
def test_a_loss_may_take_entries_out_of_the_answer(cache):
    def loss(model, batch):
        answer = model(batch[0])
        return F.cross_entropy(answer.pop("logits"), batch[1])

    model, batch = _Named(), (normal(6, 4), classes(6, 3))
    got = dense.matrix_of(gauss_newton(la.Objective(model, loss, [batch, batch]), cache=cache))
    want = dense.gauss_newton(la.Objective(model.body, la.supervised(F.cross_entropy), [batch]))
    assert_close(got, want, rtol=1e-9, atol=1e-11)


@CACHE
def test_terms_of_every_output_count(cache):
    def loss(model, batch):
        answer = model(batch[0])
        return F.cross_entropy(answer["logits"], batch[1]) + answer["parts"][0].square().mean()

    model, batch = _Named(), (normal(6, 4), classes(6, 3))
    got = dense.matrix_of(gauss_newton(la.Objective(model, loss, [batch]), cache=cache))
    logits = dense.gauss_newton(
        la.Objective(model.body, la.supervised(F.cross_entropy), [batch])
    )
    hidden = la.Objective(model.body[0], lambda m, b: m(b[0]).square().mean(), [batch])
    want = logits.clone()
    want[:25, :25] += dense.matrix_of(hessian(hidden))
    assert_close(got, want, rtol=1e-9, atol=1e-11)


@CACHE
def test_tied_weights_raise_no_alarm_and_a_penalty_on_them_does(cache):
    tokens = torch.arange(12).reshape(4, 3) % 5
    batch = (tokens, tokens.roll(1, 1))
    model = initialized(Tied())
    plain = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    got = dense.matrix_of(gauss_newton(plain, cache=cache))
    assert_close(got, dense.gauss_newton(plain), rtol=1e-9, atol=1e-11)
    decayed = la.Objective(
        model, lambda m, b: _penalized(m, b, lambda m: m.head.weight.square().sum()), [batch]
    )
    with pytest.raises(LossError, match="penalty"):
        gauss_newton(decayed, cache=cache).flat(normal(len(got)))
