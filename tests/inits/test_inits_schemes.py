import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lossatlas.errors import ArgumentError, ModelError, UnknownNameError
from lossatlas.inits.candidates import Candidate, Initializer
from lossatlas.inits.schemes import SCHEMES, find_layers
from lossatlas.io.records import from_bytes, to_bytes
from lossatlas.objective import supervised
from lossatlas.training.models import build_model


def wide():
    return nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 100))


def digits_like(seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(64, 300, generator=random), torch.arange(64) % 10


@pytest.mark.parametrize(
    ("scheme", "deviation"),
    [
        ("xavier_normal", math.sqrt(2 / 700)),
        ("xavier_uniform", math.sqrt(2 / 700)),
        ("kaiming_normal", math.sqrt(2 / 300)),
        ("kaiming_uniform", math.sqrt(2 / 300)),
        ("normal", 0.1),
        ("uniform", math.sqrt(1 / 300)),
    ],
)
def test_weights_have_the_deviation_of_their_scheme_and_biases_are_zero(scheme, deviation):
    drawn = Initializer(wide()).draw(Candidate(scheme, 1.5, 3))
    weight = drawn["0.weight"]
    assert float(weight.std()) == pytest.approx(1.5 * deviation, rel=0.01)
    assert abs(float(weight.mean())) < 0.01 * deviation * 1.5
    if scheme.endswith("uniform") or scheme == "uniform":
        bound = 1.5 * math.sqrt(3) * deviation
        assert bound * 0.99 < float(weight.abs().max()) <= bound
    assert not drawn["0.bias"].any()
    assert not drawn["2.bias"].any()


@pytest.mark.parametrize(
    ("module", "fans"),
    [
        (nn.Linear(7, 5), (7, 5)),
        (nn.Conv2d(4, 6, 3), (4 * 9, 6 * 9)),
        (nn.Conv1d(4, 6, 5, groups=2), (2 * 5, 3 * 5)),
        (nn.ConvTranspose2d(4, 6, 3), (4 * 9, 6 * 9)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (2 * 9, 3 * 9)),
        (nn.MultiheadAttention(8, 2), (8, 8)),
    ],
)
def test_fans_count_receptive_field_groups_and_direction(module, fans):
    layer = find_layers(nn.Sequential(module))[0]
    assert (layer.fan_in, layer.fan_out) == fans


@pytest.mark.parametrize(
    "module",
    [nn.Linear(12, 7), nn.Linear(7, 12), nn.Conv2d(3, 5, 2), nn.ConvTranspose2d(6, 4, 2)],
)
def test_orthogonal_weights_are_orthogonal(module):
    model = nn.Sequential(module)
    layer = find_layers(model)[0]
    weight = Initializer(model).draw(Candidate("orthogonal", 2.0, 1))["0.weight"].double()
    matrix = weight.transpose(0, 1) if layer.transposed else weight
    matrix = matrix.reshape(layer.rows, -1)
    small = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    assert_close(small, 4 * torch.eye(len(small), dtype=torch.float64), rtol=0, atol=1e-5)


def test_orthogonal_draws_prefer_no_rotation():
    # Without the signs of R the diagonal of Q would never be positive.
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    drawn = [Initializer(model).draw(Candidate("orthogonal", 1.0, s)) for s in range(400)]
    first = np.array([float(d["0.weight"][0, 0]) for d in drawn])
    assert abs(first.mean()) < 0.1
    assert first.std() == pytest.approx(math.sqrt(0.5), rel=0.1)


def test_lsuv_gives_every_layer_unit_variance():
    model, batch = wide().eval(), digits_like()
    loss = supervised(nn.CrossEntropyLoss())
    drawn = Initializer(model, loss, batch).draw(Candidate("lsuv", 1.0, 5))
    first = batch[0] @ drawn["0.weight"].T
    second = first.relu() @ drawn["2.weight"].T
    assert float(first.std()) == pytest.approx(1, rel=1e-4)
    assert float(second.std()) == pytest.approx(1, rel=1e-4)


def test_lsuv_knows_the_layer_of_a_model_that_is_one_layer():
    (inputs, targets), loss = digits_like(), supervised(nn.CrossEntropyLoss())
    model = nn.Linear(inputs.shape[1], 10)
    drawn = Initializer(model, loss, (inputs, targets)).draw(Candidate("lsuv", 1.0, 5))
    assert float((inputs @ drawn["weight"].T).std()) == pytest.approx(1, rel=1e-4)


def test_lsuv_without_a_batch_says_what_it_needs():
    with pytest.raises(ArgumentError, match="`loss` and `probe`"):
        Initializer(wide()).draw(Candidate("lsuv"))


def test_the_same_recipe_gives_the_same_bits_alone_or_in_a_stack():
    base = [Candidate(s, 0.8, 7, 0.2) for s in SCHEMES if s != "lsuv"]
    mixed = Candidate("interpolation", 1.0, 1, 0.1, tuple(base[:3]))
    initializer = Initializer(wide())
    state = torch.get_rng_state()
    stacked = initializer.stack([*base, mixed])
    assert torch.equal(torch.get_rng_state(), state)
    for index, candidate in enumerate([*base, mixed]):
        alone = Initializer(wide()).draw(from_bytes(to_bytes(candidate)))
        assert all(torch.equal(alone[n], stacked[n][index]) for n in alone)


def test_interpolations_without_noise_lie_between_their_parents():
    parents = tuple(Candidate("normal", 1.0, s) for s in range(3))
    initializer = Initializer(wide())
    rows = initializer.rows(parents).double()
    mixed = initializer.rows([Candidate("interpolation", 1.0, 9, 0.0, parents)]).double()[0]
    shares = torch.linalg.lstsq(rows.T, mixed).solution
    assert_close(shares @ rows, mixed, rtol=0, atol=1e-6)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-5)
    assert bool((shares > 0).all())


def test_noise_has_the_deviation_asked_for_on_biases_too():
    initializer = Initializer(wide())
    drawn = initializer.rows([Candidate("normal", 1.0, 0, 0.3)])
    plain = initializer.rows([Candidate("normal", 1.0, 0)])
    assert float((drawn - plain).std()) == pytest.approx(0.3, rel=0.01)
    assert bool(initializer.draw(Candidate("normal", 1.0, 0, 0.3))["0.bias"].all())


def test_own_is_what_the_model_gives_itself():
    def build(seed):
        return build_model("mlp(8)", seed=seed, features=4, outputs=3)

    initializer = Initializer(build(0), build=build)
    drawn = initializer.draw(Candidate("own", 1.0, 5))
    expected = dict(build(5).named_parameters())
    assert all(torch.equal(drawn[name], expected[name]) for name in expected)
    doubled = initializer.draw(Candidate("own", 2.0, 5))
    assert torch.equal(doubled["fc1.weight"], 2 * expected["fc1.weight"])
    assert torch.equal(doubled["fc1.bias"], expected["fc1.bias"])
    with pytest.raises(ArgumentError, match="`build`"):
        Initializer(build(0)).draw(Candidate("own"))


def test_norm_layers_and_embeddings_stay_as_they_are():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    drawn = Initializer(model).draw(Candidate("kaiming_normal", 1.0, 0))
    assert torch.equal(drawn["0.weight"], model[0].weight)
    assert torch.equal(drawn["1.weight"], torch.ones(4))
    assert not torch.equal(drawn["2.weight"], model[2].weight)


def test_an_unknown_scheme_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'xavier_normal'"):
        Initializer(wide()).draw(Candidate("xavier_norml"))


def test_a_network_without_supported_layers_is_named():
    with pytest.raises(ModelError, match="LayerNorm has no supported layers"):
        Initializer(nn.LayerNorm(3)).draw(Candidate("normal"))


def test_frozen_layers_are_left_out():
    model = wide()
    model[0].requires_grad_(False)
    drawn = Initializer(model).draw(Candidate("normal"))
    assert set(drawn) == {"2.weight", "2.bias"}
