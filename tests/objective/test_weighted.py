"""Sums and weights: the value is that of all data, however they are dealt to batches."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import lossatlas as la
import lossatlas.curvature
from lossatlas.errors import DataError, LossError
from lossatlas.objective import Moments
from lossatlas.objective.additivity import kernel_rounding
from reference.objective_ratio import ratio

CLASSES = torch.tensor([1.0, 5.0, 0.2])


def _classifier(seed=0, n=10):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    for value in model.parameters():
        value.data = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (n,), generator=generator)
    y[::4] = -100
    return model, x, y


class _Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 5), nn.Linear(5, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.embed(tokens))).transpose(1, 2)


def _tagger(n=10, length=6):
    generator = torch.Generator().manual_seed(1)
    model = _Tagger().double()
    tokens = torch.randint(0, 9, (n, length), generator=generator)
    labels = torch.randint(0, 3, (n, length), generator=generator)
    lengths = torch.randint(1, length + 1, (n,), generator=generator)
    labels[torch.arange(length) >= lengths[:, None]] = -100
    return model, tokens, labels


CRITERIA = {
    "function": F.cross_entropy,
    "ignore_index": nn.CrossEntropyLoss(ignore_index=1),
    "weight": nn.CrossEntropyLoss(weight=CLASSES.double()),
    "partial": partial(F.cross_entropy, weight=CLASSES.double(), ignore_index=2),
    "smooth": nn.CrossEntropyLoss(label_smoothing=0.3),
    "smooth_weight": nn.CrossEntropyLoss(weight=CLASSES.double(), label_smoothing=0.3),
    "equal_weight": nn.CrossEntropyLoss(weight=torch.full((3,), 7.0).double()),
    "zero_class": nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 2.0]).double()),
    "nll": lambda o, t, reduction="mean": F.nll_loss(o.log_softmax(1), t, reduction=reduction),
}
DATA = {"classes": _classifier, "tokens": _tagger}


def _two_ways(model, loss, x, y, **options):
    whole = la.Objective(model, loss, [(x, y)], **options)
    parts = la.Objective(model, loss, [(x[:3], y[:3]), (x[3:], y[3:])], **options)
    return whole, parts


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "nll"])
def test_the_value_does_not_depend_on_how_data_are_dealt_to_batches(name, data):
    model, x, y = DATA[data]()
    criterion = CRITERIA[name]
    if name in {"ignore_index", "partial"}:
        y = y.where(y >= 0, criterion.ignore_index if name == "ignore_index" else 2)
    whole, parts = _two_ways(model, la.supervised(criterion), x, y)
    expected = criterion(model(x), y)
    assert whole.unit == parts.unit == "examples"
    assert whole.value() == pytest.approx(expected.item(), rel=1e-12)
    assert parts.value() == pytest.approx(expected.item(), rel=1e-12)
    assert parts.evaluate().stderr == pytest.approx(whole.evaluate().stderr, rel=1e-9)
    slopes = torch.autograd.grad(expected, list(model.parameters()))
    for found in (whole.gradient(), parts.gradient()):
        assert_close(list(found.values()), list(slopes), rtol=1e-9, atol=1e-12)
    matrices = [la.curvature.hessian(o) for o in (whole, parts)]
    direction = {n: torch.ones_like(v) for n, v in whole.params.items()}
    a, b = (matrix @ direction for matrix in matrices)
    assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_equal_numbers_of_ignored_tokens_are_still_ignored():
    model, x, y = _tagger()
    y = y.clamp_min(0)
    y[:, 3:] = -100
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(x, y)])
    assert objective.value() == pytest.approx(F.cross_entropy(model(x), y).item())


@pytest.mark.parametrize("data", DATA)
def test_the_error_is_that_of_a_ratio_over_examples(data):
    model, x, y = DATA[data]()
    criterion = nn.CrossEntropyLoss(weight=CLASSES.double())
    whole, parts = _two_ways(model, la.supervised(criterion), x, y)
    pairs = parts.example_pairs()
    value, error = ratio(pairs.sums.tolist(), pairs.weights.tolist())
    for found in (whole.evaluate(), parts.evaluate()):
        assert found.value == pytest.approx(value)
        assert found.stderr == pytest.approx(error)
        assert found.samples == int((pairs.weights > 0).sum())
    w = pairs.weights.numpy()
    assert parts.evaluate().effective == pytest.approx(w.sum() ** 2 / (w**2).sum())


def test_example_losses_average_to_the_value_where_examples_have_weights():
    model, x, y = _tagger()
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(x, y)])
    found, losses = objective.evaluate(), objective.example_losses()
    assert float(losses.mean()) == pytest.approx(found.value)
    assert float(losses.std()) / len(losses) ** 0.5 == pytest.approx(found.stderr, rel=0.05)


def test_all_reductions_mean_the_same_examples():
    model, x, y = _classifier()
    y = y.clamp_min(0)
    for reduction in ("mean", "none", "sum"):
        criterion = nn.CrossEntropyLoss(reduction=reduction)
        whole, parts = _two_ways(model, la.supervised(criterion), x, y)
        expected = F.cross_entropy(model(x), y).item()
        assert parts.value() == pytest.approx(expected), reduction
        assert whole.value() == pytest.approx(expected), reduction
    target = torch.rand(10, 3, dtype=torch.float64)
    for reduction, each in (("sum", 1.0), ("mean", 1 / 3), ("none", 1 / 3)):
        _, parts = _two_ways(model, la.supervised(nn.MSELoss(reduction=reduction)), x, target)
        expected = (model(x) - target).square().sum(1).mean().item()
        assert parts.value() == pytest.approx(expected * each), reduction
    divergence = nn.KLDivLoss(reduction="batchmean")
    _, parts = _two_ways(model, la.supervised(divergence), x, target)
    assert parts.unit == "examples"
    assert parts.value() == pytest.approx(divergence(model(x), target).item())


def test_binary_criteria_with_weights_are_plain_means():
    model, x, _ = _classifier()
    target = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)).double().round()
    criterion = nn.BCEWithLogitsLoss(pos_weight=CLASSES.double(), weight=CLASSES.double())
    whole, parts = _two_ways(model, la.supervised(criterion), x, target)
    for objective in (whole, parts):
        assert objective.unit == "examples"
        assert objective.value() == pytest.approx(criterion(model(x), target).item())


def _masked(model, batch):
    each = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return la.Weighted(each.sum(1), (batch[1] != -100).sum(1))


def test_a_loss_of_ones_own_may_return_pairs():
    model, x, y = _tagger()
    own = la.Objective(model, _masked, [(x[:3], y[:3]), (x[3:], y[3:])])
    known = la.Objective(model, la.supervised(F.cross_entropy), [(x, y)])
    assert own.evaluate().value == pytest.approx(known.evaluate().value)
    assert own.evaluate().stderr == pytest.approx(known.evaluate().stderr)
    assert_close(own.gradient(), known.gradient())


def test_examples_of_weight_zero_change_nothing():
    model, x, y = _tagger()
    more = torch.cat([x, x]), torch.cat([y, torch.full_like(y, -100)])
    plain = la.Objective(model, _masked, [(x, y)])
    padded = la.Objective(model, _masked, [more, (x, torch.full_like(y, -100))])
    first, second = plain.evaluate(), padded.evaluate()
    assert (first.samples, first.sample_unit) == (second.samples, second.sample_unit)
    for name in ("value", "stderr", "effective"):
        assert getattr(first, name) == pytest.approx(getattr(second, name))
    assert_close(padded.gradient(), plain.gradient())


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda s: la.Weighted(s, -torch.ones(10)), LossError, "at least 0; got -1"),
        (lambda s: la.Weighted(s, torch.full((10,), np.nan)), LossError, "got nan"),
        (lambda s: la.Weighted(s, torch.zeros(10)), DataError, "nothing counts"),
        (lambda s: la.Weighted(s, torch.ones(9)), LossError, r"shapes \(10,\), \(9,\)"),
        (lambda s: la.Weighted(s.sum(), s.sum()), LossError, r"shapes \(\), \(\)"),
        (lambda s: la.Weighted(s, 3.0), LossError, "got float"),
        (lambda s: la.Weighted(s.long(), s), LossError, "torch.int64"),
    ],
)
def test_weights_that_cannot_be_are_refused(loss, error, message):
    model, x, _ = _classifier()
    with pytest.raises(error, match=message):
        la.Objective(model, lambda m, b: loss(m(b[0]).square().sum(1)), [(x,)])


def test_weights_that_depend_on_the_parameters_are_refused():
    model, x, _ = _classifier()

    def loss(m, batch):
        out = m(batch[0]).square()
        return la.Weighted(out.sum(1), out[:, 0])

    objective = la.Objective(model, loss, [(x,)])
    with pytest.raises(LossError, match="must not depend on the parameters"):
        objective.gradient()


def test_pairs_for_some_batches_and_means_for_others_are_refused():
    model, x, y = _tagger()
    mixed = lambda m, b: _masked(m, b) if len(b[0]) > 3 else F.cross_entropy(m(b[0]), b[1])  # noqa: E731
    with pytest.raises(LossError, match="for every batch or for none"):
        la.Objective(model, mixed, [(x[:3], y[:3]), (x[3:], y[3:])])


def test_sums_of_ratios_do_not_cancel_far_from_zero():
    generator = np.random.default_rng(0)
    weights = generator.integers(1, 50, 200).astype(float)
    sums = weights * 1e6 + generator.normal(size=200)
    moments = Moments()
    for part in np.split(np.arange(200), 8):
        moments.add_pairs(sums[None, part], weights[None, part])
    value, error = ratio(sums.tolist(), weights.tolist())
    assert moments.mean()[0, 0] == pytest.approx(value, rel=1e-14)
    assert moments.stderr()[0, 0] == pytest.approx(error, rel=1e-6)


ENGINES = ["plain", "batched", "stacked", "folded", "streaming"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["supervised", "own"])
def test_every_engine_maps_the_same_ratio(engine, kind):
    model, x, y = _classifier()
    criterion = nn.CrossEntropyLoss(weight=CLASSES.double())
    own = lambda m, b: la.Weighted(  # noqa: E731
        F.cross_entropy(m(b[0]), b[1], weight=CLASSES.double(), reduction="none"),
        CLASSES.double()[b[1].clamp_min(0)] * (b[1] >= 0),
    )
    loss = la.supervised(criterion) if kind == "supervised" else own
    if engine == "stacked" and kind == "own":
        return
    objective = la.Objective(model, loss, [(x[:3], y[:3]), (x[3:], y[3:])])
    land = la.map_plane(
        objective,
        la.random_plane(objective, seed=0),
        points=3,
        engine=engine,
        metrics={"accuracy": la.accuracy} if engine != "stacked" else None,
    )
    assert land.engine == engine
    plain = la.map_plane(
        objective, la.random_plane(objective, seed=0), points=3, engine="plain"
    )
    np.testing.assert_allclose(land.values, plain.values, rtol=1e-9)
    np.testing.assert_allclose(land.stderr, plain.stderr, rtol=1e-6)
    assert plain.values[1, 1] == pytest.approx(objective.value())


@pytest.mark.parametrize(
    ("precision", "rounding"), [("highest", 2**-23), ("high", 2**-10), ("medium", 2**-7)]
)
def test_parts_of_a_batch_are_compared_as_finely_as_matrices_are_multiplied(
    precision, rounding
):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        single, double = torch.ones(()), torch.ones((), dtype=torch.float64)
        assert kernel_rounding(nn.Linear(2, 2), single) == rounding
        assert kernel_rounding(nn.Linear(2, 2), double) == torch.finfo(torch.float64).eps
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("precision", "noted"), [("highest", True), ("high", False)])
def test_what_low_precision_does_to_parts_is_no_weight_of_theirs(precision, noted):
    model = nn.Linear(3, 2)

    def loss(model, batch):
        # A kernel that rounds as TensorFloat-32 does, otherwise in parts than in the whole.
        return model(batch).square().mean() * (1 + 1e-3 * (len(batch) == 9))

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        objective = la.Objective(model, loss, [torch.randn(9, 3), torch.randn(9, 3)])
    finally:
        torch.set_float32_matmul_precision(before)
    assert any("not the mean over its examples" in n for n in objective.notes) is noted
