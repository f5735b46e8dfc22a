"""95 % intervals hold the truth about as often as they say: a small part of the study.

The study itself, with more draws, is docs/studies/coverage_curvature.
"""

import pytest
from scipy.stats import binom

from reference import curvature_coverage as simulations


@pytest.mark.parametrize(
    ("simulate", "draws"),
    [
        (simulations.of_gradient_noise, 60),
        (simulations.of_traces, 30),
        (simulations.of_roughness, 40),
        (lambda n: simulations.of_sample_size(n, 8, 10), 12),
    ],
    ids=["gradient noise", "traces", "roughness", "sample size"],
)
def test_intervals_hold_the_truth(simulate, draws):
    for name, (held, known, count) in simulate(draws).items():
        assert known >= 0.9 * count, name
        # 90 % would be too few: refused where that many are less likely than 1 in 1000.
        assert held >= binom.ppf(1e-3, known, 0.9), name
