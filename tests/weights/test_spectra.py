"""Spectra of weights against planted ranks, spikes and laws."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lossatlas as la
from lossatlas.errors import ArgumentError, FileError, NonFiniteError
from lossatlas.weights import spectra, weight_spectra
from lossatlas.weights.spectra import fit_tail, noise_edge


def noise(rows, columns, seed=0, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, columns, generator=draw)


def only(tensor, **options):
    return weight_spectra({"w": tensor}, **options).matrices[0]


def with_spectrum(values, columns):
    """A matrix whose squared singular values are given."""
    size = len(values)
    left = torch.linalg.qr(noise(size, size).double())[0]
    right = torch.linalg.qr(noise(columns, size, 1).double())[0]
    return left @ torch.diag(torch.tensor(values).sqrt()) @ right.T


@pytest.mark.parametrize("shape", [(30, 70), (70, 30), (8, 3, 3, 3)])
def test_ranks_are_those_of_the_singular_values(shape):
    draw = torch.Generator().manual_seed(0)
    tensor = torch.randn(shape, generator=draw)
    values = torch.linalg.svdvals(tensor.flatten(1).double())
    found = only(tensor)
    assert found.stable_rank.value == pytest.approx(float((values / values[0]).square().sum()))
    shares = values / values.sum()
    entropy = -float((shares * shares.log()).sum())
    assert found.effective_rank.value == pytest.approx(math.exp(entropy))
    assert found.norm.value == pytest.approx(float(values[0]))
    assert found.shape == tuple(tensor.flatten(1).shape)


@pytest.mark.parametrize("shape", [(60, 60), (40, 200), (300, 30)])
def test_noise_has_a_spike_once_in_a_hundred(shape):
    alarms = 0
    for seed in range(300):
        values = np.linalg.svd(noise(*shape, seed).numpy(), compute_uv=False)[::-1] ** 2
        alarms += bool(values[-1] > noise_edge(values, max(shape)))
    # The median adds its own error: 1 % asked for, more than 4 % would be wrong.
    assert alarms <= 12


@pytest.mark.parametrize("planted", [1, 3, 7])
def test_planted_spikes_are_counted_at_any_scale(planted):
    for scale in (1e-3, 1.0, 50.0):
        tensor = noise(100, 200, scale=scale)
        left, right = (torch.linalg.qr(noise(n, planted, 5))[0] for n in (100, 200))
        # The edge is sqrt(100) + sqrt(200) = 24; a spike of 60 stands above it.
        found = only(tensor + 60 * scale * left @ right.T, resampled=10)
        assert found.spikes == planted
        assert found.edge.value / scale == pytest.approx(24.1, rel=0.07)


@pytest.mark.parametrize("exponent", [2.2, 3.0, 4.0])
def test_a_planted_power_law_is_found_and_not_ruled_out(exponent):
    draws = np.random.default_rng(1)
    values = draws.random(400) ** (-1 / (exponent - 1))
    found = only(with_spectrum(values, 500))
    low, high = found.exponent.interval(0.99)
    assert low < exponent < high
    assert found.is_power_law


def test_what_is_no_power_law_is_ruled_out():
    draws = np.random.default_rng(0)
    found = only(with_spectrum(draws.uniform(1, 2, 600), 700))
    assert found.is_power_law is False
    said = weight_spectra({"w": with_spectrum(draws.uniform(1, 2, 600), 700)}).sentences()
    assert "ruled out for 1 of 1 matrices" in said[-1]


def test_intervals_of_exponents_cover():
    inside = 0
    for seed in range(40):
        draws = np.random.default_rng(seed)
        values = np.sort(draws.random(300) ** (-1 / 1.5))
        again = [fit_tail(np.sort(draws.choice(values, 300)))[0] for _ in range(60)]
        inside += abs(fit_tail(values)[0] - 2.5) <= 1.96 * np.std(again)
    assert inside >= 35


def test_fit_is_that_of_a_plain_loop():
    values = np.sort(np.random.default_rng(3).pareto(1.7, 60) + 1)
    best = (math.inf,)
    for place in range(60 - 20 + 1):
        tail = values[place:]
        exponent = 1 + len(tail) / np.log(tail / tail[0]).sum()
        law = 1 - (tail / tail[0]) ** (1 - exponent)
        above, below = np.arange(1, len(tail) + 1) / len(tail), np.arange(len(tail)) / len(tail)
        distance = max(np.abs(law - above).max(), np.abs(law - below).max())
        best = min(best, (distance, exponent, tail[0]))
    assert fit_tail(values) == pytest.approx((best[1], best[2], best[0]), rel=1e-2)


def test_what_has_no_spectrum_has_a_reason():
    found = weight_spectra(
        {
            "bias": torch.ones(3),
            "row": torch.ones(1, 5),
            "count": torch.ones(3, 3, dtype=torch.long),
            "zero": torch.zeros(3, 3),
            "none": torch.zeros(0, 3),
            "good": torch.eye(3),
        }
    )
    assert [m.name for m in found.matrices] == ["good"]
    assert found.skipped["bias"] == "fewer than two axes"
    assert found.skipped["zero"] == "all weights are zero"
    assert {"row", "count", "none"} < found.skipped.keys()
    assert "needs 50 eigenvalues; there are 3" in found.matrices[0].exponent.why_no_error
    assert found.matrices[0].is_power_law is None


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e200])
def test_weights_whose_squares_leave_float64_have_the_same_spectrum(size):
    plain = noise(60, 80).double()
    first, second = only(plain), only(size * plain)
    assert second.stable_rank.value == pytest.approx(first.stable_rank.value)
    assert second.effective_rank.value == pytest.approx(first.effective_rank.value)
    assert second.norm.value == pytest.approx(size * first.norm.value)
    assert second.edge.value == pytest.approx(size * first.edge.value)
    assert second.spikes == first.spikes
    assert second.exponent.value == pytest.approx(first.exponent.value, rel=1e-6)


def test_singular_matrices_have_as_many_spikes_as_their_rank():
    for rank in (1, 3):
        found = only(noise(100, rank) @ noise(rank, 120, 1))
        assert found.spikes == rank
        assert found.edge.value == pytest.approx(0, abs=1e-4)
        assert f"there are {rank}" in found.exponent.why_no_error
    alike = only(torch.eye(60))
    assert alike.spikes == 0
    assert alike.is_power_law is None
    assert "all equal" in alike.exponent.why_no_error


def test_bad_input_is_named(tmp_path):
    with pytest.raises(NonFiniteError, match="'w' holds NaN"):
        weight_spectra({"w": torch.full((3, 3), math.nan)})
    with pytest.raises(ArgumentError, match="`weights` must"):
        weight_spectra(3)
    with pytest.raises(ArgumentError, match="no weight called 'v'"):
        weight_spectra({"w": torch.eye(3)}, names=["v"])
    assert len(weight_spectra({"w1": torch.eye(3)}, names="w1").matrices) == 1
    (tmp_path / "x.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(FileError, match="not safetensors"):
        weight_spectra(tmp_path / "x.safetensors")
    with pytest.raises(FileError):
        weight_spectra(tmp_path / "nowhere.safetensors")


def test_model_mapping_and_files_give_the_same_numbers(tmp_path):
    model = nn.Sequential(nn.Linear(60, 70), nn.ReLU(), nn.Linear(70, 10))
    found = weight_spectra(model)
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert weight_spectra(model.state_dict()) == found
    for name in ("m.safetensors", "m.pt"):
        other = weight_spectra(tmp_path / name)
        assert {m.name: m for m in other.matrices} == {m.name: m for m in found.matrices}
    assert la.load(found.save(tmp_path / "s.nc")) == found
    assert all(math.isfinite(e.error) or e.why_no_error for e in found.estimates())
    assert found.plot() is not None
    assert found.plot(backend="plotly").data


def test_half_precision_is_read():
    assert only(noise(60, 80).bfloat16()).norm.value == pytest.approx(16.5, rel=0.1)


def test_a_safetensors_file_is_never_read_whole(tmp_path, monkeypatch):
    save_file({f"w{k}": noise(8, 9, k) for k in range(3)}, tmp_path / "m.safetensors")
    monkeypatch.setattr(spectra, "load_checkpoint", None)
    assert len(weight_spectra(tmp_path / "m.safetensors").matrices) == 3
