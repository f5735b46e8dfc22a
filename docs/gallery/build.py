"""Draw the gallery: `python docs/gallery/build.py [WORD ...]` runs the code of index.md.

Writes one PNG for every block into docs/images/gallery; words select figures by name.
"""

import re
import sys
import time
import warnings
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
from PIL import Image

mpl.use("Agg")

import matplotlib.pyplot as plt
import torch

HERE = Path(__file__).parent
IMAGES = HERE.parent / "images" / "gallery"
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n\n!\[.*?\]\(\.\./images/gallery/(.*?)\.png\)", re.S | re.M
)
SETUP = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)


def read_page():
    """The code that all figures share, and name -> code of each figure."""
    page = (HERE / "index.md").read_text("utf-8")
    setup, figures = page.split("## Maps", 1)
    return SETUP.search(setup)[1], {name: code for code, name in BLOCK.findall(figures)}


def run(code, shared, name="gallery"):
    """The names that a block defines, beside those it shares."""
    names = dict(shared)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        exec(compile(code, f"gallery/index.md, {name}", "exec"), names)
    return names


def png(axes, width=640):
    """A figure as a small PNG with a palette."""
    drawn = BytesIO()
    axes.figure.savefig(drawn, dpi=110, bbox_inches="tight", pad_inches=0.1)
    plt.close(axes.figure)
    picture = Image.open(drawn).convert("RGB")
    if picture.width > width:
        size = (width, round(picture.height * width / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    small = BytesIO()
    # Few marks of a color of their own keep it: they are what the picture is about.
    kept = picture.quantize(96, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    kept.save(small, "png", optimize=True)
    return small.getvalue()


def main(*words):
    setup, figures = read_page()
    shared = run(setup, {"__name__": "gallery"}, "setup")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, code in figures.items():
        if words and not any(word in name for word in words):
            continue
        started = time.process_time()
        try:
            data = png(run(code, shared, name)["axes"])
        except Exception as error:
            print(f"FAILED {name}: {type(error).__name__}: {error}")
            continue
        (IMAGES / f"{name}.png").write_bytes(data)
        print(f"{name}: {len(data) / 1e3:.0f} kB, {time.process_time() - started:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
