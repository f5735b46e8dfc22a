"""The examples run, and do what they say."""

import importlib.util
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_measured_diagonals_serve_adahessian():
    pytest.importorskip("pytorch_optimizer")
    losses = example("adahessian").train(is_measured=True, steps=12)
    assert losses[-1] < losses[0] / 4


def test_the_probe_of_capo_is_the_divergence_of_the_policy_to_second_order():
    capo = example("capo_bandit")
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, generator=draw, dtype=torch.float64)
    change = 1e-3 * torch.randn(1, 5, generator=draw, dtype=torch.float64)
    shares, moved = logits.softmax(1), (logits + change).softmax(1)
    divergence = float((shares * (shares / moved).log()).sum())
    arms, ones = torch.arange(5), torch.ones(5, dtype=torch.float64)
    found = capo.probe(logits.expand(5, -1), arms, ones, change.expand(5, -1))
    assert float((shares[0] * found.policy).sum()) == pytest.approx(divergence, rel=1e-2)
    truth = (moved / shares).log()[0]
    assert found.objective == pytest.approx(truth, abs=1e-8)


def test_shortening_steps_by_the_probe_helps_the_bandit():
    capo = example("capo_bandit")
    plain, scaled = (
        [capo.train(how=how, limit=0.01, steps=60, seed=seed)[0][-1] for seed in range(3)]
        for how in ("plain", "scale")
    )
    assert sum(scaled) > sum(plain) + 0.3


def test_kronecker_factors_precondition_an_lstm():
    kfac = example("kfac_lstm")
    errors = kfac.train("kfac", lr=0.1, steps=12)
    assert errors[-1] < errors[0] / 4


def test_swan_whitens_matrices_and_needs_no_rate():
    swan = example("swan")
    draw = torch.Generator().manual_seed(0)
    gradient = torch.randn(4, 9, generator=draw, dtype=torch.float64)
    found = swan.direction(gradient)
    rows = gradient - gradient.mean(1, keepdim=True)
    rows /= rows.std(1, correction=0, keepdim=True)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    white = vectors @ torch.diag(values.rsqrt()) @ vectors.T @ rows
    assert torch.allclose(found, white * (rows.norm() / white.norm()))
    losses = swan.train(steps=12)
    assert losses[-1] < losses[0] / 10
