"""The seed of a ranked candidate makes its start again, as the guide says."""

import pytest
import torch

from lossatlas.inits.candidates import Candidate
from lossatlas.inits.problem import load_problem
from lossatlas.inits.schemes import OWN
from lossatlas.inits.settings import InitsSettings
from lossatlas.training import build_model

FACTORY = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
"""


@pytest.mark.parametrize("seed", [0, 1088460633, 2**31 - 1])
def test_a_seed_of_the_table_is_a_seed_of_build_model(seed, tmp_path):
    (tmp_path / "my.py").write_text(FACTORY)
    sizes = {"mlp(4)": {"features": 64, "outputs": 10}, f"{tmp_path}/my.py:net": {}}
    for model, known in sizes.items():
        problem = load_problem(InitsSettings(model=model, examples=60, probe=8, out=tmp_path))
        ranked = problem.weights(Candidate(OWN, 1.0, seed))
        again = build_model(model, seed=seed, **known).state_dict()
        assert ranked.keys() == again.keys()
        assert all(torch.equal(ranked[name], again[name]) for name in ranked)
