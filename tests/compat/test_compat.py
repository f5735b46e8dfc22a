"""The names of toploss 0.1.0 and topoadamw 0.1.0, called as there."""

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossatlas.compat import toploss, topoadamw
from lossatlas.errors import ArgumentError
from lossatlas.rng import generator
from lossatlas.steering import penalties

# Every public name and how it is called, read off the released packages.
CALLS = {
    "sasp_penalty_closed_form": "logits features targets include_bias",
    "sasp_penalty": "per_sample_losses params create_graph",
    "cvp_penalty": "params grads beta",
    "apply_cvp_": "params lam beta",
    "nger_weights": "task_losses running_min ntk_proxies gamma eps",
    "nger_loss": "task_losses weights",
    "sbmp_penalty": "clean_logits model_fn embeddings alpha symmetric_kl",
    "dmta_penalty": "grad_vector slow_ema eps",
    "SASPLoss": "rho include_bias",
    "CVPRegularizer": "lam beta",
    "SBMPLoss": "lam alpha symmetric_kl",
    "DMTATracker": "dim mu lam",
    "NGERWeighter": "num_tasks gamma window eps",
    "TopologicalLoss": "lambda_sasp lambda_cvp lambda_sbmp lambda_dmta sasp_include_bias "
    "cvp_beta sbmp_alpha",
}
NAMES = {
    "TopoAdam", "TopoAdamW", "create_topoadam", "create_topoadamw", "SubspaceProbe",
    "LossLandscapeTDA", "TopoCNN", "TopoCNNTrainer", "FLAT", "NEUTRAL", "DECEL", "LR_FACTORS",
}  # fmt: skip


def randn(*shape, name="x"):
    return torch.randn(*shape, generator=generator("compat", name))


@pytest.mark.parametrize("name", CALLS)
def test_toploss_is_called_as_before(name):
    parameters = inspect.signature(getattr(toploss, name)).parameters
    assert list(parameters) == CALLS[name].split()


def test_all_names_are_there():
    assert set(toploss.__all__) == {*CALLS, "__version__"}
    assert set(topoadamw.__all__) == NAMES
    assert toploss.__version__ == topoadamw.__version__ == "0.1.0"
    original = pytest.importorskip("toploss", reason="the original is compared if installed")
    assert set(original.__all__) == set(toploss.__all__)


def test_penalties_are_the_formulas_of_the_original():
    z, h = randn(6, 4, name="z"), randn(6, 5, name="h")
    y = torch.arange(6) % 4
    errors = z.softmax(1) - F.one_hot(y, 4)
    trace = (errors.square().sum(1) * (h.square().sum(1) + 1)).mean()
    torch.testing.assert_close(toploss.sasp_penalty_closed_form(z, h, y), trace)
    torch.testing.assert_close(toploss.SASPLoss(0.5)(z, h, y), 0.5 * trace)
    w, g = randn(7, name="w").requires_grad_(), randn(7, name="g")
    gate = torch.sigmoid(50 * w.detach() * -g)
    half = 0.5 * (gate * w.square()).sum()
    torch.testing.assert_close(toploss.cvp_penalty([w], [g]), half)
    torch.testing.assert_close(toploss.CVPRegularizer(0.1)([w], [g]), 0.1 * half)
    w.grad = g.clone()
    toploss.apply_cvp_([w], lam=0.1)
    torch.testing.assert_close(w.grad, g + 0.1 * gate * w.detach())
    total = toploss.TopologicalLoss(lambda_sasp=0.1, lambda_cvp=0.2)(
        torch.tensor(1.0), logits=z, features=h, targets=y, params=[w], grads=[g]
    )
    torch.testing.assert_close(total, 1 + 0.1 * trace + 0.2 * half)


def test_lists_of_scalars_are_taken():
    losses, lowest, kappas = [torch.tensor(2.0), 1.0], [1.0, 0.0], [1.0, torch.tensor(3.0)]
    weights = toploss.nger_weights(losses, lowest, kappas)
    torch.testing.assert_close(weights, torch.tensor([0.75, 0.25]), atol=1e-5, rtol=0)
    assert toploss.nger_loss(losses, weights).item() == pytest.approx(1.75, abs=1e-5)
    assert torch.equal(weights, penalties.nger_weights(losses, lowest, kappas))
    weighter = toploss.NGERWeighter(2)
    assert weighter(losses, kappas).sum().item() == pytest.approx(1.0)
    with pytest.raises(ArgumentError, match="one shape"):
        toploss.nger_weights(losses, lowest, [1.0])


def test_a_tracker_goes_by_its_old_names():
    tracker = toploss.DMTATracker(3, lam=0.5)
    g = torch.tensor([1.0, 2.0, 2.0])
    tracker.update(g)
    torch.testing.assert_close(tracker.ema, g)
    assert tracker.penalty(-g).item() == pytest.approx(1.0, abs=1e-5)
    assert toploss.SBMPLoss(lam=0.3).lam == 0.3


def network():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def go(model, optimizer, start, stop):
    for step in range(start, stop):
        x, y = randn(16, 6, name=f"x{step}"), torch.arange(16) % 3
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step(data=x, target=y, criterion=F.cross_entropy)
    return model


def test_a_topoadam_goes_on_with_the_same_bits():
    def made(model):
        base = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return topoadamw.TopoAdam(base, model, interval=2, warmup_steps=1)

    whole, half = network(), network()
    go(whole, made(whole), 0, 9)
    first = made(half)
    go(half, first, 0, 5)
    second = made(half)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert (second.steps, second.loss_ema) == (5, first.loss_ema)
    go(half, second, 5, 9)
    assert len(second.controller.log) == 4
    for a, b in zip(whole.state_dict().values(), half.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_the_original_is_taken_and_attributes_are_those_of_the_base():
    model = network()
    optimizer = topoadamw.create_topoadam(model, lr=0.1)
    optimizer.load_state_dict(torch.optim.AdamW(model.parameters(), lr=0.5).state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert isinstance(topoadamw.create_topoadamw(model, betas=(0.8, 0.9)), topoadamw.TopoAdamW)
    with pytest.raises(ArgumentError, match="use_topo_cnn"):
        topoadamw.create_topoadamw(model, use_topo_cnn=True)
    assert copy.copy(optimizer).steps == 0


def test_a_probe_is_the_loss_on_a_plane_and_leaves_no_trace():
    model = network()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    probe = topoadamw.SubspaceProbe(model, grid_size=15, span=0.12, n_samples=4)
    x, y = randn(16, 6), torch.arange(16) % 3
    seen = probe.probe(x, y, F.cross_entropy)
    model.eval()
    center = F.cross_entropy(model(x), y).item()
    model.train()
    assert seen["center"] == pytest.approx(center)
    assert (len(seen["neighbors"]), len(seen["samples"])) == (8, 4)
    grid = probe.grid_probe(x, y, F.cross_entropy, grid_size=5)
    assert grid.shape == (5, 5)
    assert grid[2, 2] == pytest.approx(center)
    assert not np.array_equal(grid, probe.grid_probe(x, y, F.cross_entropy, grid_size=5))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_persistence_image_shows_basins_and_loops():
    tda = topoadamw.LossLandscapeTDA(resolution=20)
    i, j = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9))
    bowl = tda.compute_persistence_image(1 + i**2 + j**2)
    assert bowl.shape == (2, 20, 20)
    assert bowl[0].max() == 1
    assert bowl[1].max() == 0
    ring = tda.compute_persistence_image(1 + (np.hypot(i, j) - 0.6) ** 2)
    assert ring[1].max() == 1
    with pytest.raises(ArgumentError, match="above zero"):
        tda.compute_persistence_image(i)


def test_the_network_learns_the_labels_of_the_table():
    trainer = topoadamw.TopoCNNTrainer(min_samples=6, retrain_every=3, train_epochs=60)
    images = {0.05: torch.zeros(2, 20, 20), 0.9: torch.ones(2, 20, 20)}
    state = torch.get_rng_state()
    for _ in range(4):
        for sharpness, image in images.items():
            trainer.add_sample(image, sharpness, 0.1)
    assert trainer.is_ready
    assert {trainer.predict_factor(i) for i in images.values()} <= {1.15, 0.85}
    assert torch.equal(torch.get_rng_state(), state)
