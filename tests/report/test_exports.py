"""Meshes, films and tables that leave the library."""

import json
import struct
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.latex_table import latex_cell, text_table
from lossatlas.report import film, write_film, write_mesh
from lossatlas.result import Estimate
from lossatlas.text import MINUS
from plots.sample_landscapes import line_map, sample_map
from report.sample_surveys import HOSTILE, double_well, line, survey_of
from report.test_atlas import training


def glb(path):
    """The description of a GLB and its arrays, read by the specification."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON"
    about = json.loads(data[20 : 20 + size])
    rest, kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    assert kind == b"BIN\0"
    buffer = data[28 + size :]
    assert len(buffer) == rest
    arrays = []
    for accessor in about["accessors"]:
        view = about["bufferViews"][accessor["bufferView"]]
        piece = buffer[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        dtype = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
        arrays.append(np.frombuffer(piece, dtype))
        assert arrays[-1].size == accessor["count"] * {"VEC3": 3, "SCALAR": 1}[accessor["type"]]
    return about, arrays


def test_a_glb_holds_the_surface_and_leaves_out_what_is_not_finite(tmp_path):
    land = sample_map(noise=0.02, walls=True)
    about, (points, normals, colors, faces) = glb(write_mesh(land, tmp_path / "a.glb"))
    points = points.reshape(-1, 3)
    lowest = int(np.where(land.finite, land.values, np.inf).argmin())
    assert points[lowest, 1] == 0
    assert points[:, 1].max() == pytest.approx(0.62)
    np.testing.assert_allclose(np.linalg.norm(normals.reshape(-1, 3), axis=1), 1, rtol=1e-5)
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert land.finite.ravel()[faces].all()
    assert about["accessors"][0]["min"] == pytest.approx(points.min(0))
    # Every triangle looks up.
    a, b, c = (points[faces.reshape(-1, 3)[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 1] > 0).all()


def test_a_vtk_file_holds_losses_errors_and_coordinates(tmp_path):
    land = replace(sample_map(noise=0.02, labels=(HOSTILE, "b")), metrics={})
    data = write_mesh(survey_of(land), tmp_path / "a.vtk").read_bytes()
    head, _, rest = data.partition(b"double\n")
    rows, columns = land.values.shape
    assert head.startswith(b"# vtk DataFile Version 3.0\n")
    assert f"DIMENSIONS {rows} {columns} 1".encode() in head
    points = np.frombuffer(rest[: 24 * land.values.size], ">f8").reshape(columns, rows, 3)
    np.testing.assert_array_equal(
        points[2, 5], [land.axes[0][5], land.axes[1][2], land.values[5, 2]]
    )
    assert data.count(b"SCALARS ") == 2


def test_what_has_no_surface_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="must be a map of a plane"):
        write_mesh(line_map(), tmp_path / "a.glb")
    with pytest.raises(UnknownNameError, match="`path`"):
        write_mesh(sample_map(), tmp_path / "a.obj")
    with pytest.raises(ArgumentError, match="must hold a survey of a plane"):
        write_film(line(), tmp_path / "a.gif")


def test_a_film_turns_one_survey_or_follows_several(tmp_path):
    small = {"seconds": 1.0, "rate": 4, "width": 160}
    for found in (double_well(), training()):
        with Image.open(write_film(found, tmp_path / "a.gif", **small)) as film:
            assert (film.n_frames, film.size) == (4, (160, 120))
            first = np.asarray(film.convert("RGB")).astype(int)
            film.seek(3)
            last = np.asarray(film.convert("RGB")).astype(int)
        assert np.abs(first - last).mean() > 0.5
        assert len(np.unique(first.reshape(-1, 3), axis=0)) > 60


@pytest.mark.skipif(film._ffmpeg() is None, reason="neither ffmpeg nor imageio-ffmpeg")
def test_an_mp4_is_a_film(tmp_path):
    path = write_film(double_well(), tmp_path / "a.mp4", seconds=0.5, rate=4, width=160)
    assert path.read_bytes()[4:8] == b"ftyp"
    told = subprocess.run(
        [film._ffmpeg(), "-i", path, "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert "160x120" in told
    assert "h264" in told or "mpeg4" in told


def test_an_mp4_without_ffmpeg_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "_ffmpeg", lambda: None)
    with pytest.raises(ArgumentError, match=r"needs ffmpeg, which is not installed; take .gif"):
        write_film(double_well(), tmp_path / "a.mp4", seconds=0.5, rate=4, width=160)


def test_a_table_for_latex_keeps_errors_and_reasons():
    text = line().to_latex()
    assert text.startswith("\\begin{tabular}{lrl}")
    assert text.count("\\begin") == text.count("\\end") == 1
    assert "loss at the weights & " in text
    assert "$\\pm$" in text
    assert text.count("no standard error") == 1
    rows = [row for row in text.splitlines() if row.endswith(r"\\")]
    assert len({row.partition(" & ")[0] for row in rows}) == len(rows)
    assert "NaN" not in text
    assert not any("dagger" in row for row in rows if row.startswith(("minima", "computed")))
    odd = replace(line(), loss=Estimate(1.0, 0.1, samples=9), metrics={HOSTILE: Estimate(-2.0)})
    bare = odd.to_latex().replace("\\$", "").replace("\\{", "").replace("\\}", "")
    assert bare.count("$") % 2 == 0
    assert "\\_" not in bare or "_" in bare
    assert "<script>" in bare


def test_a_table_for_latex_shows_intervals_and_marks_bounds():
    loss = Estimate(-0.0044, 0.0037, ends=(-0.017, 0.008), samples=99)
    bounded = Estimate(2.0, bound=0.1, samples=9)
    text = replace(line(), loss=loss, metrics={"bounded": bounded}).to_latex()
    rows = {row.partition(" & ")[0]: row for row in text.splitlines() if " & " in row}
    assert "$-$0.004 [$-$0.017, 0.008]" in rows["loss at the weights"]
    assert r"2.00 $\pm$ 0.10$^\ddagger$" in rows["bounded at the weights"]
    assert text.count("a bound on the error, not a standard error") == 1


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("2.75e-06 ± 6.5e-07", r"$2.75 \times 10^{-6} \pm 0.65 \times 10^{-6}$"),
        ("0.000347 ± 1.2e-06", r"$3.47 \times 10^{-4} \pm 0.012 \times 10^{-4}$"),
        (f"{MINUS}1.5e-06 [{MINUS}2.0e-06, 3e-07]", "exponents"),
        ("1.20e+07 %", r"$1.20 \times 10^{7} \%$"),
        ("0.0e+00", r"$0.0 \times 10^{0}$"),
        ("1,234 ± 12", r"1,234 $\pm$ 12"),
        ("adam 1e-3 & 5 %", r"adam 1e-3 \& 5 \%"),
        ("a_b #1 $", r"a\_b \#1 \$"),
    ],
)
def test_exponents_become_powers_of_ten(cell, shown):
    if shown == "exponents":
        first, second, third = (rf"{each} \times 10^{{-6}}" for each in ("-1.5", "-2.0", "0.3"))
        shown = f"${first} [{second}, {third}]$"
    assert latex_cell(cell) == shown


def test_a_table_for_latex_says_what_its_errors_are():
    text = line().to_latex()
    assert r"\multicolumn{3}{l}{$\pm$ standard error} \\" in text
    small = replace(line(), loss=Estimate(2.75e-6, 6.5e-7, samples=9)).to_latex()
    assert r"& $2.75 \times 10^{-6} \pm 0.65 \times 10^{-6}$ &" in small
    ends = replace(line(), loss=Estimate(0.2, 0.1, samples=9, ends=(0.1, 0.5))).to_latex()
    assert "brackets: ends of the 95" in ends


def test_a_table_for_latex_names_the_papers_for_what_they_were_used():
    land = line().landscape
    assert "% map on filter-normalized random directions: H. Li, Z. Xu," in land.to_latex()
    record = replace(land.provenance, settings={"plane": {"kind": "trajectory"}})
    text = replace(land, provenance=record).to_latex()
    assert "plane of a training trajectory: H. Li" in text
    assert "filter-normalized" not in text
    survey = line().to_latex()
    assert survey.count("filter-normalized") == 1
    assert "saddle-minimum average distance (SMAD): J. Chen" in survey


def test_a_table_without_rows_has_a_column_for_each_heading():
    assert r"\begin{tabular}{ll}" in text_table(("rate", "loss"), [], (), ())
