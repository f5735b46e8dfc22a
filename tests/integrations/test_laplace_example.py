"""The example that hands a posterior to laplace-torch."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "laplace_torch.py"


def test_both_packages_have_the_same_evidence():
    pytest.importorskip("laplace", reason="laplace-torch is not installed")
    ours, evidence, chances = runpy.run_path(str(EXAMPLE))["main"]()
    assert ours.gain.value < 1e-4
    assert evidence == pytest.approx(ours.log_evidence.value, abs=1e-3)
    assert all(0 < chance < 1 for chance in chances)
