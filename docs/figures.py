"""Draw the figures of a documented survey: `python docs/figures.py FOLDER/survey.nc NAME`.

Writes docs/images/NAME-*.png and docs/images/NAME.png, the three that say most side by side.
Needs nothing but the saved survey.
"""

import sys
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
from PIL import Image

import lossatlas as la

mpl.use("Agg")

from lossatlas.plots.scale import scale_of

IMAGES = Path(__file__).parent / "images"
DPI = 110


def draw(survey):
    land, tree = survey.landscape, survey.tree
    figures = (
        *land.figures(tree),
        *survey.diagram.figures(scale_of(land.values)),
        *tree.figures(),
    )
    bends = {} if survey.spectrum is None else {"spectrum": survey.spectrum.plot()}
    names = ("surface", "contour", "stderr", "persistence", "tree", "profile")
    return bends | {
        shown.name: shown.matplotlib(None) for shown in figures if shown.name in names
    }


def picture_of(axes):
    drawn = BytesIO()
    axes.figure.savefig(drawn, dpi=DPI, bbox_inches="tight", pad_inches=0.15)
    return Image.open(drawn).convert("RGB")


def side_by_side(pictures, height=460):
    scaled = [
        p.resize((round(p.width * height / p.height), height), Image.Resampling.LANCZOS)
        for p in pictures
    ]
    whole = Image.new("RGB", (sum(p.width for p in scaled), height), "white")
    left = 0
    for picture in scaled:
        whole.paste(picture, (left, 0))
        left += picture.width
    return whole


def main(source, name):
    IMAGES.mkdir(exist_ok=True)
    pictures = {kind: picture_of(axes) for kind, axes in draw(la.load(source)).items()}
    for kind, picture in pictures.items():
        picture.save(IMAGES / f"{name}-{kind}.png", optimize=True)
    chosen = [pictures[kind] for kind in ("surface", "contour", "persistence")]
    # An octree keeps the few bright marks, which a palette by frequency would lose.
    small = side_by_side(chosen).quantize(256, method=Image.Quantize.FASTOCTREE)
    small.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
