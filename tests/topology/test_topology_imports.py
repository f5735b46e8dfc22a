import subprocess
import sys

import lossatlas.topology


def test_the_numpy_part_loads_without_torch_gudhi_scikit_learn_and_what_draws():
    unwanted = {"torch", "gudhi", "sklearn", "matplotlib", "plotly"}
    code = (
        "import sys, lossatlas.topology as t; t.persistence([3., 0., 2.], dimensions=(0,)); "
        f"print(sorted({unwanted} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    assert all(hasattr(lossatlas.topology, name) for name in lossatlas.topology.__all__)
