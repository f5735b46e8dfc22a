"""A user's file: strict mypy must accept it, and every `type: ignore` in it must be needed."""

from pathlib import Path

import torch
from torch.nn import functional as F

import lossatlas as la


def main() -> None:
    """Call what users call, and read what comes back by its type."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    batches = [(torch.randn(16, 4), torch.randint(0, 3, (16,)))]
    objective = la.Objective(model, la.supervised(F.cross_entropy), batches)
    plane = la.random_plane(objective, seed=0)
    land = la.map_plane(objective, plane, span=0.5, points=5)
    rows: int = land.values.shape[0]
    spectrum: la.Spectrum = la.spectrum(objective, top=1, bottom=1)
    sharpest: float = float(spectrum.top[0])
    tree: la.MergeTree = la.merge_tree(land)
    bars: la.Diagram = la.persistence(land)
    sentences: tuple[str, ...] = tree.sentences() + bars.sentences()
    saved: Path = land.save(Path("land.nc"))
    assert rows == 5
    assert sharpest > 0
    assert sentences
    assert saved.is_file()
    land.plot("contour", backend="plotly")


def wrong(land: la.Landscape, objective: la.Objective) -> None:
    """What a type checker must refuse: words that are no choice, names that do not exist."""
    land.plot("contour", backend="bokeh")  # type: ignore[arg-type]
    land.plot("contour", style="poster")  # type: ignore[arg-type]
    la.persistence(land, connectivity="diagonal")  # type: ignore[arg-type]
    la.survey(objective, engine="fast")  # type: ignore[arg-type]
    la.spectrum(objective, curvature="hessain")  # type: ignore[arg-type]
    land.heights  # type: ignore[attr-defined] # noqa: B018


if __name__ == "__main__":
    main()
