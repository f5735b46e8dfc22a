"""topoadamw 0.1.0 by its own names: change the import, keep the code.

What is mended: the state holds the whole controller, so a resumed run goes on with the same
bits; probes leave storage, buffers, train/eval and the global random state alone; a loss that
is not finite brakes; groups may be added later; the two channels of a persistence image are
basins and loops; `use_topo_cnn=True` is an error, because the network learns the labels of
the table that decides without it (`TopoCNN` and `TopoCNNTrainer` are there for code of your
own).
"""

from lossatlas.compat.topoadamw.network import (
    DECEL,
    FLAT,
    LR_FACTORS,
    NEUTRAL,
    TopoCNN,
    TopoCNNTrainer,
)
from lossatlas.compat.topoadamw.optimizer import (
    TopoAdam,
    TopoAdamW,
    create_topoadam,
    create_topoadamw,
)
from lossatlas.compat.topoadamw.probe import LossLandscapeTDA, SubspaceProbe

__version__ = "0.1.0"

__all__ = [
    "DECEL",
    "FLAT",
    "LR_FACTORS",
    "NEUTRAL",
    "LossLandscapeTDA",
    "SubspaceProbe",
    "TopoAdam",
    "TopoAdamW",
    "TopoCNN",
    "TopoCNNTrainer",
    "create_topoadam",
    "create_topoadamw",
]
