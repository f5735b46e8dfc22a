import subprocess
import sys

import lossatlas.forecast


def test_forecasts_load_and_run_without_torch():
    code = (
        "import sys; from lossatlas import forecast as f; import numpy as np; "
        "law, rates = f.PowerLaw(), np.ones(200); step = np.arange(1, 201, 4); "
        "curve = f.Curve(step, 1 + step**-0.5, rates); "
        "fit = f.fit(law, curve, check=False); fit.predict(rates); "
        "print(sorted({'torch', 'gudhi', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    assert all(hasattr(lossatlas.forecast, name) for name in lossatlas.forecast.__all__)
