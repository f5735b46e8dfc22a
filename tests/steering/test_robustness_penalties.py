import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lossatlas.errors import ArgumentError, ModelError
from lossatlas.rng import generator
from lossatlas.steering.penalties import (
    MESALoss,
    SAFLoss,
    SBMPLoss,
    SpectralRegularizer,
    ascended,
    sbmp_penalty,
    trajectory_penalty,
    tram_radius,
)
from reference.steering_penalties import token_kl


def linear(seed=0, width=6, classes=3):
    weight = torch.randn(classes, width, generator=generator(seed), dtype=torch.float64)
    return lambda e: e @ weight.T


# SBMP


def test_fact_8_nothing_moves_at_alpha_zero():
    e = torch.randn(4, 6, generator=generator(1), dtype=torch.float64)
    assert sbmp_penalty(linear()(e), linear(), e, 0.0).item() < 1e-5
    assert sbmp_penalty(linear()(e), linear(), e, 2.0).item() > 0


@pytest.mark.parametrize("symmetric", [True, False])
def test_it_is_the_mean_divergence_of_the_predictions(symmetric):
    e = torch.randn(4, 5, 6, generator=generator(1), dtype=torch.float64)
    moved = []

    def model(inputs):
        moved.append(inputs)
        return linear()(inputs)

    clean = linear()(e)
    got = sbmp_penalty(clean, model, e, 3.0, symmetric, generator=generator(7))
    noisy = linear()(moved[0])
    truth = token_kl(clean, noisy)
    truth = 0.5 * (truth + token_kl(noisy, clean)) if symmetric else truth
    assert_close(got, truth.mean())
    lengths = (moved[0] - e).flatten(1).norm(dim=1)
    assert_close(lengths, torch.full_like(lengths, 3.0))


@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6), (4, 2, 3, 6)])
def test_every_layout_moves_each_example_equally_far(shape):
    e = torch.zeros(shape, dtype=torch.float64)
    moved = []

    def model(inputs):
        moved.append(inputs)
        return linear()(inputs)

    sbmp_penalty(linear()(e), model, e, 2.0)
    assert_close(moved[0].flatten(1).norm(dim=1), torch.full((4,), 2.0, dtype=torch.float64))


def test_the_same_generator_draws_the_same_signs_and_leaves_the_global_one():
    e = torch.randn(3, 6, generator=generator(1), dtype=torch.float64)
    before = torch.get_rng_state()
    values = {
        sbmp_penalty(linear()(e), linear(), e, generator=generator(5)).item() for _ in range(2)
    }
    assert len(values) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_padding_neither_moves_nor_counts():
    e = torch.randn(2, 4, 6, generator=generator(1), dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    moved = []

    def model(inputs):
        moved.append(inputs)
        return linear()(inputs)

    got = sbmp_penalty(linear()(e), model, e, 2.0, mask=mask, generator=generator(3))
    step = moved[0] - e
    assert torch.equal(step[~mask], torch.zeros_like(step[~mask]))
    assert_close(step.flatten(1).norm(dim=1), torch.full((2,), 2.0, dtype=torch.float64))
    noisy, clean = linear()(moved[0]), linear()(e)
    truth = 0.5 * (token_kl(clean, noisy) + token_kl(noisy, clean))
    assert_close(got, truth[mask].mean())


def test_targets_of_the_divergence_carry_no_gradient():
    e = torch.randn(3, 6, generator=generator(1), dtype=torch.float64).requires_grad_()
    clean = linear()(e).detach().requires_grad_()
    value = sbmp_penalty(clean, linear(), e, symmetric_kl=False, generator=generator(0))
    assert torch.autograd.grad(value, clean, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(value, e)[0].abs().sum() > 0


def test_batchnorm_does_not_learn_the_noise():
    norm = nn.BatchNorm1d(6)
    before = copy.deepcopy(norm.state_dict())
    e = torch.randn(8, 6, generator=generator(1))
    sbmp_penalty(torch.zeros(8, 6), norm, e, model=norm)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])
    assert norm.track_running_stats
    sbmp_penalty(torch.zeros(8, 6), norm, e)
    assert norm.num_batches_tracked == 1


def test_sbmp_gradients_are_right():
    e = torch.randn(2, 6, generator=generator(1), dtype=torch.float64).requires_grad_()
    clean = torch.zeros(2, 3, dtype=torch.float64)

    def penalty(inputs):
        return sbmp_penalty(clean, linear(), inputs, 1.0, False, generator=generator(0))

    assert torch.autograd.gradcheck(penalty, (e,))


def test_sbmp_of_nothing_and_bad_input():
    empty = torch.zeros(0, 6, dtype=torch.float64)
    assert sbmp_penalty(linear()(empty), linear(), empty).item() == 0
    e = torch.zeros(2, 6, dtype=torch.float64)
    assert_close(SBMPLoss(0.5, 0.0)(linear()(e), linear(), e).item(), 0.0)
    with pytest.raises(ArgumentError, match="`embeddings` must be"):
        sbmp_penalty(torch.zeros(3), linear(), torch.zeros(6))
    with pytest.raises(ArgumentError, match="`mask` must be"):
        sbmp_penalty(linear()(e), linear(), e, mask=torch.ones(3).bool())
    with pytest.raises(ArgumentError, match=r"`model_fn` failed .* takes `embeddings`"):
        sbmp_penalty(linear()(e), linear(), torch.zeros(2, 5, dtype=torch.float64))
    with pytest.raises(ArgumentError, match="`model_fn` must give"):
        sbmp_penalty(torch.zeros(2, 4), linear(), e)
    with pytest.raises(ArgumentError, match="`alpha`"):
        SBMPLoss(alpha=-1)


# Spectral


def test_power_iteration_finds_the_largest_singular_values():
    model = nn.Sequential(nn.Linear(5, 4), nn.Conv1d(3, 2, 3), nn.MultiheadAttention(4, 2))
    penalty = SpectralRegularizer(model, iterations=200)
    got = penalty.singular_values().detach()
    attention = model[2].in_proj_weight.detach().view(3, 4, 4)
    matrices = [model[0].weight, model[1].weight.flatten(1), *attention]
    matrices.append(model[2].out_proj.weight)
    truth = sorted(float(torch.linalg.matrix_norm(m.detach(), 2)) for m in matrices)
    assert_close(torch.tensor(sorted(got.tolist())), torch.tensor(truth), rtol=1e-3, atol=1e-3)


def test_the_penalty_is_its_formula_with_the_gradient_of_sigma():
    layer = nn.Linear(3, 3).double()
    penalty = SpectralRegularizer(layer, 0.1, iterations=500)
    value = penalty()
    sigma = torch.linalg.matrix_norm(layer.weight, 2)
    truth = 0.1 * ((sigma**2 - 1) ** 2 + layer.bias.square().sum() ** 2)
    assert_close(value, truth)
    for p in layer.parameters():
        assert_close(*(torch.autograd.grad(v, p, retain_graph=True)[0] for v in (value, truth)))


def test_spectral_gradients_are_those_of_finite_differences():
    layer = nn.Linear(3, 2).double()
    penalty = SpectralRegularizer(layer, iterations=300).double()
    for p in layer.parameters():
        (gradient,) = torch.autograd.grad(penalty(), p)
        for place in range(p.numel()):
            ends = []
            for shift in (1e-5, -2e-5):
                p.data.view(-1)[place] += shift
                ends.append(penalty().item())
            p.data.view(-1)[place] += 1e-5
            slope = (ends[0] - ends[1]) / 2e-5
            assert gradient.view(-1)[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-8)


def test_one_iteration_a_call_converges_over_calls_and_resumes():
    model = nn.Linear(6, 6)
    penalty = SpectralRegularizer(model)
    for _ in range(300):
        penalty()
    sigma = torch.linalg.matrix_norm(model.weight.detach(), 2)
    assert_close(penalty.singular_values()[0].detach(), sigma, rtol=1e-3, atol=0)
    other = SpectralRegularizer(model, seed=3)
    other.load_state_dict(penalty.state_dict())
    assert torch.equal(penalty(), other())


def test_norm_layers_tied_weights_and_embeddings():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(4, 3)
            self.norm = nn.LayerNorm((2, 3))
            self.head = nn.Linear(3, 4)
            self.head.weight = self.embedding.weight
            self.twin = nn.Linear(3, 4)
            self.twin.weight = self.head.weight

    model = Tied()
    penalty = SpectralRegularizer(model, exclude=["head.bias", "twin.bias"])
    # A head tied to an embedding is the embedding: neither is drawn to a singular value.
    assert len(penalty.singular_values()) == 0
    assert penalty.left_out == ("embedding.weight", "head.bias", "twin.bias")
    nn.init.constant_(model.norm.weight, 2.0)
    zeroed = SpectralRegularizer(model.norm, 1.0)
    assert zeroed().item() == pytest.approx(6.0)


def operator_norms(layer, *shape):
    """The largest singular value of a linear map, from its matrix, one a group of channels."""
    eye = torch.eye(math.prod(shape)).reshape(-1, *shape)
    return torch.linalg.matrix_norm(layer(eye).flatten(1), 2)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_of_kernel_one_are_their_operators(transposed, groups):
    # With a kernel of 1 the matrix (out, in * kernel) is the operator itself.
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    layer = kind(4, 6, 1, groups=groups, bias=False)
    got = SpectralRegularizer(layer, iterations=300).singular_values()
    assert len(got) == groups
    assert_close(got.max(), operator_norms(layer, 4, 1), rtol=1e-3, atol=0)


def test_transposed_convolutions_are_the_matrices_of_their_twins():
    layer = nn.ConvTranspose2d(3, 5, (2, 3), bias=False)
    matrix = layer.weight.permute(1, 0, 2, 3).flatten(1)
    got = SpectralRegularizer(layer, iterations=300).singular_values()
    assert_close(got[0], torch.linalg.matrix_norm(matrix, 2), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("layer", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1), (nn.LSTMCell, 4)]
)
def test_recurrent_layers_have_one_matrix_a_gate(layer, gates):
    model = layer(3, 5)
    got = SpectralRegularizer(model, iterations=400).singular_values()
    inputs, hidden = (p.detach() for p in list(model.parameters())[:2])
    truth = [
        float(torch.linalg.matrix_norm(m, 2))
        for weight in (inputs, hidden)
        for m in weight.unflatten(0, (gates, -1))
    ]
    assert got.tolist() == pytest.approx(truth, rel=1e-3)
    projected = SpectralRegularizer(nn.LSTM(3, 5, proj_size=2), exclude=["weight_ih_l0"])
    assert len(projected.singular_values()) == 4 + 1


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize("normed", [old_weight_norm, nn.utils.parametrizations.weight_norm])
def test_the_effective_weight_counts_where_it_is_parametrized(normed):
    layer = normed(nn.Linear(4, 3, bias=False))
    for parameter in layer.parameters():
        parameter.data.add_(0.3)
    penalty = SpectralRegularizer(layer, 0.1, iterations=400)
    first, second = layer.parameters()
    gain, direction = (first, second) if first.shape[1] == 1 else (second, first)
    weight = gain * direction / direction.norm(dim=1, keepdim=True)
    sigma = torch.linalg.matrix_norm(weight, 2)
    assert penalty.left_out == ()
    assert_close(penalty(), 0.1 * (sigma**2 - 1) ** 2, rtol=1e-3, atol=1e-6)
    truth = torch.autograd.grad(0.1 * (sigma**2 - 1) ** 2, (gain, direction))
    for got, wanted in zip(
        torch.autograd.grad(penalty(), (gain, direction)), truth, strict=True
    ):
        assert_close(got, wanted, rtol=2e-3, atol=1e-5)


def test_reading_a_spectral_norm_does_not_iterate_it():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)).train()
    penalty = SpectralRegularizer(layer)
    before = {name: value.clone() for name, value in layer.named_buffers()}
    penalty()
    assert layer.training
    assert layer.parametrizations.weight[0].training
    assert all(torch.equal(before[name], value) for name, value in layer.named_buffers())


def test_what_is_left_out_is_listed():
    model = nn.Sequential(nn.Bilinear(2, 3, 4), nn.Linear(4, 2), nn.Embedding(3, 2))
    penalty = SpectralRegularizer(model, exclude=["1.bias"])
    assert penalty.left_out == ("0.weight", "0.bias", "1.bias", "2.weight")


def test_zero_matrices_and_frozen_models():
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert SpectralRegularizer(layer, 1.0)().item() == pytest.approx(1.0)
    with pytest.raises(ModelError, match="no layers to regularize"):
        SpectralRegularizer(layer.requires_grad_(False))
    with pytest.raises(ArgumentError, match="`weight`"):
        SpectralRegularizer(nn.Linear(2, 2), -1.0)


# The past


def test_softened_divergence_by_the_definition():
    now, then = (torch.randn(4, 3, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    truth = 4.0 * token_kl(then / 2, now / 2).mean()
    assert_close(trajectory_penalty(now, then, 2.0), truth)
    assert torch.autograd.gradcheck(
        lambda z: trajectory_penalty(z, then), (now.requires_grad_(),)
    )
    with pytest.raises(ArgumentError, match="shaped like"):
        trajectory_penalty(now, then[:2])


def test_saf_compares_with_predictions_of_lag_epochs_ago():
    loss = SAFLoss(4, 3, weight=2.0, temperature=1.0, lag=2, start=2)
    rows = torch.arange(4)
    logits = [torch.randn(4, 3, generator=generator(e)) for e in range(5)]
    for epoch, z in enumerate(logits):
        got = loss(z, rows)
        if epoch < 2:
            assert got.item() == 0
        else:
            assert_close(got, 2.0 * trajectory_penalty(z, logits[epoch - 2], 1.0))
        loss.next_epoch()
    again = SAFLoss(4, 3, weight=2.0, temperature=1.0, lag=2, start=2)
    again.load_state_dict(loss.state_dict())
    z = torch.randn(4, 3, generator=generator(9))
    assert torch.equal(loss(z, rows), again(z, rows))


def test_saf_has_no_teacher_older_than_lag():
    loss = SAFLoss(2, 3, weight=1.0, temperature=1.0, lag=2, start=2)
    z = [torch.randn(2, 3, generator=generator(e)) for e in range(6)]
    both, first = torch.tensor([0, 1]), torch.tensor([0])
    for epoch in range(2):
        loss(z[epoch], both)
        loss.next_epoch()
    for epoch in (2, 3):
        loss(z[epoch][:1], first)
        loss.next_epoch()
    # The second example was seen last in epochs 0 and 1, four epochs ago.
    got = loss(z[4], both)
    assert_close(got, 0.5 * trajectory_penalty(z[4][:1], z[2][:1], 1.0))


def test_saf_does_not_take_an_earlier_batch_of_the_same_epoch_as_teacher():
    loss = SAFLoss(1, 3, weight=1.0, lag=1, start=1)
    row = torch.tensor([0])
    loss(torch.randn(1, 3), row)
    loss.next_epoch()
    assert loss(torch.randn(1, 3), row).item() > 0
    assert loss(torch.randn(1, 3), row).item() == 0


def test_saf_skips_examples_that_it_has_not_seen():
    loss = SAFLoss(4, 3, lag=1, start=1)
    first = torch.randn(2, 3)
    loss(first, torch.tensor([0, 1]))
    loss.next_epoch()
    z = torch.randn(2, 3)
    got = loss(z, torch.tensor([1, 2]))
    assert_close(got, 0.3 * 0.5 * trajectory_penalty(z[:1], first[1:], 5.0))
    with pytest.raises(ArgumentError, match=r"in 0\.\.3"):
        loss(z, torch.tensor([3, 4]))
    with pytest.raises(ArgumentError, match="`logits` must be"):
        loss(torch.zeros(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ArgumentError, match="start"):
        SAFLoss(4, 3, lag=3, start=1)


def test_mesa_follows_the_average_of_the_weights():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    loss = MESALoss(model, weight=1.0, temperature=1.0, decay=0.9)
    x = torch.randn(5, 3)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    before = model[0].weight.detach() - 1.0
    loss.update(model)
    assert_close(loss.teacher[0].weight.detach(), before + 0.1)
    logits = model(x)
    value = loss(logits, x)
    assert loss.teacher.training
    truth = trajectory_penalty(logits, loss.teacher.eval()(x), 1.0)
    assert_close(value, truth)
    assert all(not p.requires_grad for p in loss.parameters())


# Uphill


def test_the_radius_is_the_divergence():
    now, then = (torch.randn(4, 3, generator=generator(s)) for s in (0, 1))
    assert tram_radius(now, then, 10.0) == pytest.approx(token_kl(then, now).mean().item())
    assert tram_radius(now, now) == pytest.approx(0.0, abs=1e-6)
    assert tram_radius(now, 100 * then, 0.25) == 0.25
    with pytest.raises(ArgumentError, match="shaped like"):
        tram_radius(now, then[:2])


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_ascent_has_its_length_and_comes_back_bit_for_bit(adaptive):
    model = nn.Linear(4, 3)
    x = torch.randn(6, 4, generator=generator(0))
    loss = model(x).square().mean()
    loss.backward()
    before = [p.detach().clone() for p in model.parameters()]
    places = [p.data_ptr() for p in model.parameters()]
    with ascended(model.parameters(), 0.1, adaptive=adaptive) as length:
        moves = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
        if adaptive:
            moves = [m / (b.abs() + 0.01) for m, b in zip(moves, before, strict=True)]
        got = math.sqrt(sum(float(m.square().sum()) for m in moves))
        higher = model(x).square().mean().item()
    assert length == pytest.approx(0.1)
    assert got == pytest.approx(0.1, rel=1e-3)
    assert higher > loss.item()
    for p, b, place in zip(model.parameters(), before, places, strict=True):
        assert torch.equal(p.detach(), b)
        assert p.data_ptr() == place


def test_a_flat_point_and_a_missing_gradient():
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.zeros(2)
    with ascended([weight], 0.1) as length:
        assert torch.equal(weight.detach(), torch.ones(2))
    assert length == 0
    weight.grad = None
    with pytest.raises(ArgumentError, match="backward"), ascended([weight], 0.1):
        pass
