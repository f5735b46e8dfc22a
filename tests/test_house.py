"""The house rules that can be counted."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import lossatlas

SOURCE = Path(lossatlas.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
NAMES = {
    "AtlasError",
    "Comparison",
    "Diagram",
    "Landscape",
    "MergeTree",
    "Objective",
    "Weighted",
    "Spectrum",
    "Survey",
    "TopoAdamW",
    "TopologicalLoss",
    "LandscapeLR",
    "PolynomialAverage",
    "SAM",
    "recipe",
    "accuracy",
    "check",
    "compare",
    "diffusion",
    "from_lightning",
    "from_trainer",
    "huggingface",
    "load",
    "map_plane",
    "merge_tree",
    "persistence",
    "plan_map",
    "plane",
    "plane_through",
    "random_plane",
    "sasp_penalty",
    "spectrum",
    "io",
    "suggest_span",
    "supervised",
    "Monitor",
    "SpikeRecorder",
    "suggest_lr",
    "survey",
    "survey_along",
    "trace",
    "trajectory_plane",
    "write_atlas",
    "write_report",
}


def test_the_public_names_are_these():
    assert set(lossatlas.__all__) == NAMES
    assert len(NAMES) <= 60
    for name in NAMES:
        assert getattr(lossatlas, name) is not None


def test_no_module_takes_the_name_of_a_public_function():
    # Importing lossatlas.x puts the module where `lossatlas.x` the function should be.
    modules = {path.stem for path in SOURCE.iterdir()}
    assert modules & NAMES <= {"io"}


def test_the_package_imports_only_what_it_uses_at_once():
    heavy = {
        "matplotlib",
        "plotly",
        "xarray",
        "pandas",
        "joblib",
        "gudhi",
        "pydantic",
        "jinja2",
    }
    heavy |= {f"scipy.{part}" for part in ("stats", "optimize", "special", "linalg", "spatial")}
    heavy |= {"scipy.ndimage", "scipy.sparse", "scipy.cluster", "torch._dynamo", "sympy"}
    code = (
        "import sys, lossatlas as la\nla.survey\n"
        f"loaded = {heavy!r} & set(sys.modules)\nassert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_functions_stay_small(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_is_unpickled_and_no_seed_is_set_for_everybody(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            assert "pickle" not in names
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "torch.manual_seed"
            if called == "torch.load":
                assert path == SOURCE / "io" / "checkpoints.py"
                assert "weights_only=True" in ast.unparse(node)
            assert called != "np.load" or "allow_pickle=False" in ast.unparse(node)


def test_test_files_have_names_of_their_own():
    # Pytest imports them by name alone: the second of two is not run.
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
