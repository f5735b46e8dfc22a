import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.testing import assert_close

from lossatlas.errors import ArgumentError, ModelError, UnknownNameError
from lossatlas.rng import generator
from lossatlas.steering.penalties import (
    SASPCrossEntropy,
    SASPLoss,
    captured_features,
    per_example_sasp_penalty,
    sasp_cross_entropy,
    sasp_penalty,
)
from reference.steering_penalties import CRITERIA, head_hessian_trace, mean_squared_gradient

B, D, C = 6, 5, 4


def case(head="softmax", *, soft=False, seed=0, rows=B):
    source = generator("sasp", seed)
    weight = torch.randn(C, D, generator=source, dtype=torch.float64)
    bias = torch.randn(C, generator=source, dtype=torch.float64)
    features = torch.randn(rows, D, generator=source, dtype=torch.float64)
    if head == "softmax" and not soft:
        targets = torch.randint(0, C, (rows,), generator=source)
    elif head == "linear":
        targets = torch.randn(rows, C, generator=source, dtype=torch.float64)
    else:
        targets = torch.rand(rows, C, generator=source, dtype=torch.float64)
        targets = (
            targets / targets.sum(1, keepdim=True) if head == "softmax" else targets.round()
        )
    return weight, bias, features, targets


@pytest.mark.parametrize("head", CRITERIA)
def test_ggn_is_the_trace_of_the_hessian_of_the_head(head):
    weight, bias, features, targets = case(head)
    truth = head_hessian_trace(weight, bias, features, targets, CRITERIA[head])
    got = sasp_penalty(features @ weight.T + bias, features, targets, head=head)
    assert_close(got, truth)


@pytest.mark.parametrize("head", CRITERIA)
def test_fisher_is_the_mean_squared_gradient_of_the_head(head):
    weight, bias, features, targets = case(head)
    truth = mean_squared_gradient(weight, bias, features, targets, CRITERIA[head])
    logits = features @ weight.T + bias
    assert_close(sasp_penalty(logits, features, targets, head=head, kind="fisher"), truth)


def test_fisher_of_soft_and_of_smoothed_targets_is_exact():
    for soft, smoothing in ((True, 0.0), (False, 0.2)):
        weight, bias, features, targets = case(soft=soft)

        def criterion(z, y, smoothing=smoothing):
            return F.cross_entropy(z, y, label_smoothing=smoothing)

        truth = mean_squared_gradient(weight, bias, features, targets, criterion)
        logits = features @ weight.T + bias
        got = sasp_penalty(logits, features, targets, kind="fisher", label_smoothing=smoothing)
        assert_close(got, truth)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("soft", [False, True])
def test_weights_smoothing_and_ignored_targets_are_those_of_cross_entropy(smoothing, soft):
    weight, bias, features, targets = case(soft=soft)
    weights = torch.tensor([0.2, 1.0, 3.0, 0.0], dtype=torch.float64)
    if not soft:
        targets[0] = -100

    def criterion(z, y):
        return F.cross_entropy(z, y, weight=weights, label_smoothing=smoothing)

    truth = head_hessian_trace(weight, bias, features, targets, criterion)
    options = {"class_weights": weights, "label_smoothing": smoothing}
    logits = features @ weight.T + bias
    assert_close(sasp_penalty(logits, features, targets, **options), truth)
    total, penalty = sasp_cross_entropy(logits, features, targets, weight=0.5, **options)
    assert_close(penalty, truth)
    assert_close(total, criterion(logits, targets) + 0.5 * truth)


@pytest.mark.parametrize("kind", ["ggn", "fisher"])
@pytest.mark.parametrize("ignored", [0, 2])
def test_one_softmax_gives_the_same_loss_and_the_same_gradients(kind, ignored):
    weight, bias, features, targets = case()
    targets[:ignored] = -100
    grads = []
    for fused in (False, True):
        h = features.clone().requires_grad_()
        logits = h @ weight.T + bias
        if fused:
            total, _ = sasp_cross_entropy(logits, h, targets, weight=0.1, kind=kind)
        else:
            penalty = sasp_penalty(logits, h, targets, kind=kind)
            total = F.cross_entropy(logits, targets) + 0.1 * penalty
        grads.append((total.detach(), *torch.autograd.grad(total, h)))
    assert_close(grads[1], grads[0])


@pytest.mark.parametrize(("kind", "head"), list(itertools.product(["ggn", "fisher"], CRITERIA)))
def test_gradients_are_right(kind, head):
    _, _, features, targets = case(head, rows=3)
    logits = torch.randn(3, C, generator=generator(1), dtype=torch.float64)
    inputs = (logits.requires_grad_(), features.requires_grad_())

    def penalty(z, h):
        return sasp_penalty(z, h, targets, kind=kind, head=head)

    assert torch.autograd.gradcheck(penalty, inputs)
    assert torch.autograd.gradgradcheck(penalty, inputs)


def test_gradients_by_hand_are_those_of_autograd():
    _, _, features, targets = case()
    logits = torch.randn(B, C, generator=generator(1), dtype=torch.float64)
    criterion = SASPCrossEntropy(0.3)

    def total(z, h):
        return criterion(z, h, targets)

    # Function transforms do without the handwritten gradient.
    truth = torch.func.grad(total, (0, 1))(logits, features)
    inputs = (logits.clone().requires_grad_(), features.clone().requires_grad_())
    value = 3 * total(*inputs)
    for _ in range(2):
        found = torch.autograd.grad(value, inputs, retain_graph=True)
        assert_close(found, tuple(3 * t for t in truth))
    base = F.cross_entropy(logits, targets)
    assert_close(criterion.components["base"], base)
    assert_close(criterion.components["sasp"], sasp_penalty(logits, features, targets))
    (alone,) = torch.autograd.grad(total(inputs[0], features), inputs[:1])
    assert_close(alone, truth[0])


def test_fused_gradients_are_right_twice():
    _, _, features, targets = case(rows=3)
    logits = torch.randn(3, C, generator=generator(1), dtype=torch.float64)
    inputs = (logits.requires_grad_(), features.requires_grad_())

    def total(z, h):
        return sasp_cross_entropy(z, h, targets)[0]

    assert torch.autograd.gradcheck(total, inputs)
    assert torch.autograd.gradgradcheck(total, inputs)


@pytest.mark.parametrize("kind", ["ggn", "fisher"])
def test_sequences_are_rows_and_masks_leave_rows_out(kind):
    _, _, features, targets = case(rows=12)
    logits = torch.randn(12, C, generator=generator(2), dtype=torch.float64)
    keep = torch.arange(12) % 3 != 0
    truth = sasp_penalty(logits[keep], features[keep], targets[keep], kind=kind)
    shaped = (logits.view(3, 4, C), features.view(3, 4, D), targets.view(3, 4))
    assert_close(sasp_penalty(*shaped, kind=kind, mask=keep.view(3, 4)), truth)
    ignored = targets.masked_fill(~keep, -100).view(3, 4)
    assert_close(sasp_penalty(*shaped[:2], ignored, kind=kind), truth)


def test_padding_of_nan_has_no_way_in():
    _, _, features, targets = case()
    logits = torch.randn(B, C, generator=generator(2), dtype=torch.float64)
    features[0], logits[0], targets[0] = torch.nan, torch.nan, -100
    z, h = logits.requires_grad_(), features.requires_grad_()
    value = sasp_penalty(z, h, targets)
    grads = torch.autograd.grad(value, [z, h])
    assert bool(value.isfinite())
    assert all(bool(g.isfinite().all()) for g in grads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_single(dtype):
    logits, features = torch.zeros(2, 3, dtype=dtype), torch.full((2, 4), 300.0, dtype=dtype)
    features.requires_grad_()
    value = sasp_penalty(logits, features, torch.tensor([0, 1]))
    (grad,) = torch.autograd.grad(value, features)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx((1 - 1 / 3) * (4 * 300.0**2 + 1), rel=1e-2)
    assert grad.dtype == dtype


def test_autocast_changes_little():
    weight, bias, features, targets = (
        t.float() if t.is_floating_point() else t for t in case()
    )
    exact = sasp_penalty(features @ weight.T + bias, features, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = F.linear(features, weight, bias)
        rough = sasp_penalty(logits, features, targets)
    assert rough.dtype == torch.float32
    assert_close(rough, exact, rtol=0.03, atol=0.0)


def test_nothing_to_penalize_is_zero_with_a_gradient():
    logits = torch.zeros(0, C, requires_grad=True)
    for kind in ("ggn", "fisher"):
        value = sasp_penalty(logits, torch.zeros(0, D), torch.zeros(0).long(), kind=kind)
        assert value.item() == 0
    total, _ = sasp_cross_entropy(logits, torch.zeros(0, D), torch.zeros(0).long())
    total.backward()
    assert total.item() == 0
    ignored = sasp_penalty(torch.randn(2, C), torch.ones(2, D), torch.tensor([-100, -100]))
    assert ignored.item() == 0


@given(st.integers(0, 50), st.floats(0.1, 10))
def test_the_traces_scale_with_the_square_of_the_features(seed, scale):
    _, _, features, targets = case(seed=seed)
    logits = torch.randn(B, C, generator=generator(seed), dtype=torch.float64)
    for kind in ("ggn", "fisher"):
        one, other = (
            sasp_penalty(logits, f, targets, kind=kind, include_bias=False)
            for f in (features, scale * features)
        )
        assert_close(other, scale**2 * one)


def test_examples_that_are_confidently_wrong_have_no_curvature():
    logits, features = torch.tensor([[30.0, 0.0]]), torch.ones(1, 3)
    wrong = torch.tensor([1])
    assert sasp_penalty(logits, features, wrong).item() < 1e-9
    assert sasp_penalty(logits, features, wrong, kind="fisher").item() == pytest.approx(8)


@pytest.mark.parametrize("part", ["logits", "features"])
def test_a_detached_factor_gets_no_gradient(part):
    given_ = {"logits": torch.randn(2, C), "features": torch.randn(2, D)}
    for tensor in given_.values():
        tensor.requires_grad_()
    sasp_penalty(**given_, detach=part).backward()
    other = "features" if part == "logits" else "logits"
    assert given_[part].grad is None
    assert given_[other].grad is not None


# The facts that the original ships as its tests.


def test_fact_1_closed_form_equals_brute_force():
    weight, bias, features, targets = case(rows=8)
    truth = mean_squared_gradient(weight, bias, features, targets, F.cross_entropy)
    got = sasp_penalty(features @ weight.T + bias, features, targets, kind="fisher")
    assert_close(got, truth, atol=1e-4, rtol=0)


def test_fact_2_general_form_equals_closed_form_without_bias():
    weight, bias, features, targets = case(rows=8)
    w = weight.requires_grad_()
    logits = features @ w.T + bias
    losses = F.cross_entropy(logits, targets, reduction="none")
    general = per_example_sasp_penalty(losses, [w])
    closed = sasp_penalty(logits, features, targets, kind="fisher", include_bias=False)
    assert_close(general, closed, atol=1e-4, rtol=0)
    assert_close(*(torch.autograd.grad(v, w, retain_graph=True)[0] for v in (general, closed)))


def test_fact_3_gradient_in_the_logits_is_finite():
    _, _, features, targets = case()
    logits = torch.randn(B, C, requires_grad=True)
    sasp_penalty(logits, features.float(), targets, kind="fisher").backward()
    assert logits.grad.shape == logits.shape
    assert bool(logits.grad.isfinite().all())


def test_general_form_of_nothing_and_of_unused_parameters():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    losses = torch.stack([used.sum(), 2 * used.sum()])
    assert per_example_sasp_penalty(losses, [used, unused]).item() == pytest.approx(5.0)
    assert per_example_sasp_penalty(torch.zeros(0), [used]).item() == 0
    with pytest.raises(ArgumentError, match=r"`params` must hold tensors.*got 0"):
        per_example_sasp_penalty(losses, (number for number in range(3)))
    with pytest.raises(ArgumentError, match="one number an example"):
        per_example_sasp_penalty(losses.sum(), [used])
    with pytest.raises(ArgumentError, match="requires a gradient"):
        per_example_sasp_penalty(losses, [used.detach()])


def test_modules_are_the_functions_times_their_weight():
    weight, bias, features, targets = case()
    logits = features @ weight.T + bias
    for kind in ("ggn", "fisher"):
        expected = sasp_penalty(logits, features, targets, kind=kind)
        assert_close(SASPLoss(0.25, kind=kind)(logits, features, targets), 0.25 * expected)
        criterion = SASPCrossEntropy(0.25, kind=kind)
        total = criterion(logits, features, targets)
        assert_close(total, F.cross_entropy(logits, targets) + 0.25 * expected)
        assert_close(criterion.components["base"], F.cross_entropy(logits, targets))
        assert_close(criterion.components["sasp"], expected)


def test_the_head_is_caught_without_rewriting_the_model():
    model = nn.Sequential(nn.Linear(D, 7), nn.Tanh(), nn.Linear(7, C))
    x = torch.randn(B, D)
    with captured_features(model) as capture:
        model(x)
    assert_close(capture.features, model[1](model[0](x)))
    assert not model[2]._forward_pre_hooks
    with captured_features(model, "0") as capture:
        model(x)
    assert capture.features is x
    with (
        captured_features(model, model[0]) as capture,
        pytest.raises(ModelError, match="not run"),
    ):
        _ = capture.features
    with pytest.raises(UnknownNameError, match="did you mean"), captured_features(model, "00"):
        pass
    with (
        pytest.raises(ArgumentError, match="from elsewhere"),
        captured_features(model, nn.Linear(1, 1)),
    ):
        pass
    with pytest.raises(ModelError, match="name one"), captured_features(nn.ReLU()):
        pass


def test_compiled_training_agrees():
    criterion = SASPCrossEntropy(0.1)
    compiled = torch.compile(sasp_cross_entropy, backend="aot_eager", fullgraph=True)
    _, _, features, targets = case()
    logits = torch.randn(B, C, dtype=torch.float64)
    assert_close(
        compiled(logits, features, targets, weight=0.1)[0], criterion(logits, features, targets)
    )


BAD = {
    "kind": ({"kind": "fishr"}, UnknownNameError, "did you mean 'fisher'"),
    "head": ({"head": "soft"}, UnknownNameError, "head"),
    "detach": ({"detach": "both"}, UnknownNameError, "detach"),
    "no targets": ({"targets": None, "kind": "fisher"}, ArgumentError, "`targets` must be"),
    "one feature row": ({"features": torch.zeros(D)}, ArgumentError, "batch axis"),
    "other batch": ({"features": torch.zeros(B + 1, D)}, ArgumentError, "same leading"),
    "whole features": ({"features": torch.zeros(B, D).long()}, ArgumentError, "floating"),
    "short targets": ({"targets": torch.zeros(2).long()}, ArgumentError, "`targets` must be"),
    "whole soft targets": (
        {"targets": torch.zeros(B, C).long()},
        ArgumentError,
        "`targets` must be",
    ),
    "float mask": ({"mask": torch.ones(B)}, ArgumentError, "`mask` must be bool"),
    "smoothing": ({"label_smoothing": 1.5}, ArgumentError, "label_smoothing"),
    "weights": (
        {"targets": None, "class_weights": torch.ones(C)},
        ArgumentError,
        "where `class_weights` are",
    ),
    "too many weights": (
        {"class_weights": torch.ones(C + 1)},
        ArgumentError,
        "`class_weights` must have shape",
    ),
    "weights of squares": (
        {"head": "linear", "class_weights": torch.ones(C)},
        ArgumentError,
        "belong to",
    ),
}


@pytest.mark.parametrize("case_", BAD.values(), ids=BAD)
def test_bad_input_is_named(case_):
    options, error, message = case_
    plain = {
        "logits": torch.zeros(B, C),
        "features": torch.zeros(B, D),
        "targets": torch.zeros(B).long(),
    }
    with pytest.raises(error, match=message):
        sasp_penalty(**(plain | options))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "a"])
def test_weights_are_not_negative(weight):
    with pytest.raises(ArgumentError, match="`weight` must be"):
        SASPLoss(weight)


# torch's own rules for it are compiled in a way that torch calls deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_forward_mode_goes_around_the_gradient_by_hand():
    _, _, features, targets = case()
    logits = torch.randn(B, C, generator=generator(1), dtype=torch.float64)
    tangent = torch.randn(B, C, generator=generator(2), dtype=torch.float64)
    with forward_ad.dual_level():
        total, _ = sasp_cross_entropy(forward_ad.make_dual(logits, tangent), features, targets)
        found = forward_ad.unpack_dual(total).tangent
    z = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(sasp_cross_entropy(z, features, targets)[0], z)
    assert_close(found, (slope * tangent).sum())


def test_features_too_large_to_square_give_infinity():
    features = torch.full((B, D), 1e30)
    total, penalty = sasp_cross_entropy(torch.zeros(B, C), features, torch.zeros(B).long())
    assert total.isposinf()
    assert penalty.isposinf()


@pytest.mark.parametrize("kind", ["ggn", "fisher"])
@pytest.mark.parametrize("target", [-1, C])
def test_classes_that_are_none_are_named(kind, target):
    targets = torch.full((B,), target)
    with pytest.raises(ArgumentError, match=f"from 0 to {C - 1}.*got {target}"):
        sasp_cross_entropy(torch.zeros(B, C), torch.zeros(B, D), targets, kind=kind)


def test_a_weight_may_be_any_number():
    given = torch.zeros(B, C), torch.ones(B, D), torch.zeros(B).long()
    rho = torch.tensor(0.5)
    found = sasp_cross_entropy(*given, weight=rho, include_bias=None)
    assert_close(found, sasp_cross_entropy(*given, weight=0.5, include_bias=False))


def test_every_so_many_calls_with_so_many_times_the_weight():
    logits, features, targets = _inputs()
    often = SASPCrossEntropy(weight=0.1, every=3)
    base = F.cross_entropy(logits, targets)
    full = base + 0.3 * sasp_penalty(logits, features)
    for expected in (base, base, full, base, base, full):
        assert_close(often(logits, features, targets), expected)
        assert_close(often.components["base"], base)
    assert_close(often.components["sasp"], sasp_penalty(logits, features))
    assert_close(often.eval()(logits, features, targets), base + 0.1 * often.components["sasp"])
    other = SASPCrossEntropy(weight=0.1, every=3)
    other.load_state_dict(often.state_dict())
    assert int(other.calls) == 6
    with pytest.raises(ArgumentError, match="`every`"):
        SASPCrossEntropy(every=0)


def _inputs():
    drawn = torch.Generator().manual_seed(0)
    logits, features = (torch.randn(6, n, generator=drawn) for n in (4, 5))
    return logits, features, torch.arange(6) % 4
