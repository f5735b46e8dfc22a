import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn
from torch.testing import assert_close

from lossatlas import io
from lossatlas.errors import DataError, ModelError, UnknownNameError
from lossatlas.inits.candidates import Candidate, Initializer
from lossatlas.inits.networks import EquivariantNetwork, FlatNetwork, Rows, layer_statistics
from lossatlas.inits.predictors import RADIUS, gaussian_process, neighborhoods
from lossatlas.inits.problem import load_problem
from lossatlas.inits.samples import Samples, generate
from lossatlas.inits.schemes import find_layers
from lossatlas.inits.settings import InitsSettings
from lossatlas.inits.surrogates import fit_surrogates


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    settings = InitsSettings.model_validate(
        {
            "model": "mlp(6)",
            "examples": 200,
            "probe": 64,
            "out": tmp_path_factory.mktemp("study"),
            "generate": {"samples": 600},
            "surrogate": {"epochs": 6, "widths": [32, 16], "batch_size": 64, "anchors": 4},
        }
    )
    problem = load_problem(settings)
    pairs = generate(settings, problem)
    return settings, problem, pairs


@pytest.fixture(scope="module")
def found(study):
    return fit_surrogates(*study)


def test_held_out_pairs_are_told_from_layer_statistics_better_than_from_flat_weights(found):
    statistics = found.spearman("statistics", "within scheme")
    flat = found.spearman("flat", "within scheme")
    assert statistics[1] > 0.3
    assert statistics[0] > flat[0] + 0.3


def test_a_gaussian_process_knows_the_ground_that_it_has_seen(found):
    value, lower, upper = found.spearman("subspace", "same radius")
    assert value > 0.9
    assert lower <= value <= upper
    assert all(np.isnan(x) for x in found.spearman("subspace", "pooled"))
    assert 0.5 < found.coverage("subspace") <= 1
    assert np.isnan(found.coverage("flat"))


def test_held_out_pairs_are_no_pairs_that_were_fitted(study, found):
    settings, problem, pairs = study
    changed = pairs.losses.copy()
    changed[found.tested] = 50.0
    small = settings.model_copy(
        update={
            "out": settings.out / "changed",
            "surrogate": settings.surrogate.model_copy(update={"kinds": ("statistics",)}),
        }
    )
    other = fit_surrogates(small, problem, Samples(pairs.candidates, changed))
    index = found.kinds.index("statistics")
    assert other.predictions[0].tobytes() == found.predictions[index].tobytes()


def test_costs_stand_side_by_side(found):
    data, fit, use = found.seconds[found.kinds.index("flat")]
    assert found.cost("flat", 2000, 200) == pytest.approx((data + fit) / 200 + 2 * use)
    assert found.true_seconds > 0
    assert found.cost("subspace", 10, 200) == found.cost("subspace", 10, 1)


def test_the_result_comes_back_from_disk(found, tmp_path):
    back = io.load(io.save(found, tmp_path / "surrogate.nc"))
    assert back.kinds == found.kinds
    assert back.predictions.tobytes() == found.predictions.tobytes()
    assert back.history["flat"].tobytes() == found.history["flat"].tobytes()
    assert back.spearman("flat", "pooled") == found.spearman("flat", "pooled")
    assert back == found


def test_the_result_states_and_draws_what_it_found(found):
    rows = {row.name: row for row in found.estimates()}
    value = found.spearman("subspace", "same radius")[0]
    assert rows["subspace, same radius"].value == value
    assert f"subspace ranks losses best: rank correlation {value:.2f}" in found.sentences()[0]
    assert len(repr(found)) <= 400
    for figure in found.figures():
        assert found.plot(figure.name).has_data()
        assert found.plot(figure.name, backend="plotly").data
        plt.close("all")


def test_points_of_a_neighborhood_are_at_one_distance(study):
    settings, problem, _ = study
    around = neighborhoods(settings, problem)[0]
    assert_close(np.linalg.norm(around.tested, axis=1), np.full(64, RADIUS))
    assert (np.linalg.norm(around.fitted, axis=1) <= RADIUS).all()
    mean, deviation = gaussian_process(around)
    assert mean.shape == deviation.shape == (64,)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


def test_exchanged_hidden_units_are_the_same_network():
    model = network()
    like = {name: p.detach() for name, p in model.named_parameters()}
    reader = EquivariantNetwork(find_layers(model), like, [1.0] * len(like)).double()
    units, channels = torch.randperm(5), torch.randperm(4)
    moved = dict(like)
    moved["0.weight"], moved["0.bias"] = like["0.weight"][channels], like["0.bias"][channels]
    by_channel = like["3.weight"].view(5, 4, 4)[:, channels].reshape(5, 16)
    moved["3.weight"], moved["3.bias"] = by_channel[units], like["3.bias"][units]
    moved["5.weight"] = like["5.weight"][:, units]
    rows = [torch.cat([v.flatten() for v in p.values()]).double()[None] for p in (like, moved)]
    assert not torch.equal(*rows)
    assert_close(reader(rows[0]), reader(rows[1]), rtol=1e-10, atol=1e-12)
    flat = FlatNetwork(torch.zeros(rows[0].shape[1]), torch.ones(rows[0].shape[1]), (8, 4))
    flat = flat.double().eval()
    assert float((flat(rows[0]) - flat(rows[1])).detach().abs()) > 1e-6


def test_layers_that_do_not_follow_one_another_are_named():
    model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(5, 2)])
    like = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.raises(ModelError, match=r"'1.weight' does not read the layer before it"):
        EquivariantNetwork(find_layers(model), like, [1.0] * 4)


def test_layer_statistics_are_what_they_say():
    rows = torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0]])
    found = layer_statistics(rows, [torch.Size([2, 2]), torch.Size([1])])[0]
    first = [2.5, np.sqrt(1.25), np.log(np.sqrt(30)), 1.0, 1.75, 2.5, 3.25, 4.0]
    assert_close(
        found, np.array([*first, 10, 0, np.log(10), 10, 10, 10, 10, 10]), rtol=1e-6, atol=0
    )


def test_rows_that_do_not_fit_into_memory_are_drawn_again():
    model = network()
    recipes = [Candidate("normal", 1.0, seed) for seed in range(9)]
    kept, drawn = (Rows(Initializer(model), recipes, budget) for budget in (1 << 30, 0))
    picked = torch.tensor([3, 3, 8])
    assert torch.equal(kept(picked), drawn(picked))
    mean, deviation = drawn.moments(torch.arange(9))
    table = kept(torch.arange(9))
    assert_close(mean, table.mean(0), rtol=0, atol=1e-6)
    live = table.std(0, correction=0) > 0
    assert_close(deviation[live], table.std(0, correction=0)[live], rtol=1e-4, atol=1e-6)
    assert bool((deviation[~live] == 1).all())


def test_too_few_pairs(study):
    settings, problem, pairs = study
    few = Samples(pairs.candidates[:12], pairs.losses[:12])
    with pytest.raises(DataError, match=r"20 samples .* got 12 and 2.*generate\.samples"):
        fit_surrogates(settings, problem, few)


def test_unknown_kinds_and_views(study, found):
    settings, problem, pairs = study
    wrong = settings.surrogate.model_copy(update={"kinds": ("statistic",)})
    with pytest.raises(UnknownNameError, match="did you mean 'statistics'"):
        fit_surrogates(settings.model_copy(update={"surrogate": wrong}), problem, pairs)
    with pytest.raises(UnknownNameError, match="view"):
        found.spearman("flat", "everywhere")
