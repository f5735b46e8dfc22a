"""What a release must pass: `make release-check` runs this.

Builds the source archive and the wheel, looks into both, installs the wheel into a clean
environment, and tries the command and the types there as a user would; then the lowest versions
of what it needs. Prints a line for each step. Stops at the first that fails, except for
versions that differ, which fail at the end.
"""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "docs" / "typed_sample.py"
SOURCE_NEEDS = ("pyproject.toml", "LICENSE", "README.md", "tests/docs/typed_sample.py")
WHEEL_NEEDS = ("lossatlas/py.typed", "lossatlas/__init__.pyi", "lossatlas/cli/app.py")
DEMO = ("survey", "--set", "train.steps=30", "--points", "9", "--json")


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(*command: str | Path, where: Path = ROOT) -> str:
    """The output of a command; what it wrote is shown where it fails."""
    done = subprocess.run(
        [str(each) for each in command], cwd=where, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"FAILED: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def found_in(path: str, pattern: str) -> str:
    """What the first group of a pattern matches in a file of the repository."""
    match = re.search(pattern, (ROOT / path).read_text("utf-8"), re.MULTILINE)
    return match[1] if match else "nothing"


def versions() -> dict[str, str]:
    """Where a version is stated -> the version."""
    return {
        "src/lossatlas/__init__.py": found_in(
            "src/lossatlas/__init__.py", r'^__version__ = "(.*)"$'
        ),
        "CITATION.cff": found_in("CITATION.cff", r"^version: (.*)$"),
        "README.md": found_in("README.md", r"version = \{(.*)\}"),
        "CHANGELOG.md": found_in("CHANGELOG.md", r"^## \[(\d.*?)\]"),
    }


def version_problem() -> str:
    """What is wrong with the versions; empty where they agree."""
    stated = versions()
    if len(set(stated.values())) == 1:
        return ""
    lines = "\n".join(f"  {version:8} {path}" for path, version in stated.items())
    return f"FAILED: the versions differ; set them to the same:\n{lines}"


def built(folder: Path) -> tuple[Path, Path]:
    """Source archive and wheel, the wheel built from the archive."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def check_contents(source: Path, wheel: Path) -> None:
    """Tests are in the archive, types in the wheel, and nothing but the package in it."""
    with tarfile.open(source) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        parts = set(archive.namelist())
    missing = {*SOURCE_NEEDS} - files | {*WHEEL_NEEDS} - parts
    if missing:
        raise SystemExit(f"FAILED: missing from the archives: {', '.join(sorted(missing))}")
    tops = {name.split("/")[0] for name in parts}
    foreign = {top for top in tops if top != "lossatlas" and not top.endswith(".dist-info")}
    if foreign:
        raise SystemExit(f"FAILED: the wheel holds more than the package: {sorted(foreign)}")


def installed(wheel: Path, folder: Path) -> Path:
    """The programs of a new environment with the wheel and mypy in it."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    pins = ("-c", ROOT / "constraints.txt")
    run(programs / "pip", "install", "-q", *pins, wheel, "mypy", "basedpyright")
    return programs


def lowest() -> str:
    """The lowest versions that pyproject.toml allows, and the torch of constraints.txt.

    The lowest torch is tried by CI: on Linux the package index has it with CUDA only, which
    takes gigabytes.

    Returns:
        A file of constraints for pip.
    """
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = (re.match(r"([\w-]+)>=([\d.]+)", need) for need in needs["dependencies"])
    rows = [(match[1], match[2]) for match in found if match]
    torch = found_in("constraints.txt", r"^(torch==.*)$")
    return "\n".join(
        torch if name == "torch" else f"{name}=={version}.*" for name, version in rows
    )


def check_lowest(wheel: Path, folder: Path) -> None:
    """The demo and the sample run on the lowest versions."""
    pins = folder / "lowest.txt"
    pins.write_text(lowest() + "\n", "utf-8")
    venv.create(folder / "lowest", with_pip=True)
    programs = folder / "lowest" / ("Scripts" if sys.platform == "win32" else "bin")
    run(programs / "pip", "install", "-q", "-c", pins, wheel)
    where = folder / "old"
    where.mkdir()
    run(programs / "lossatlas", *DEMO, where=where)
    sample = where / "sample.py"
    sample.write_text(SAMPLE.read_text("utf-8"), "utf-8")
    run(programs / "python", sample, where=where)


def check_command(programs: Path, folder: Path) -> None:
    """The command answers, and the demo writes its report."""
    stated = run(programs / "lossatlas", "--version", where=folder)
    if versions()["src/lossatlas/__init__.py"] not in stated:
        raise SystemExit(f"FAILED: lossatlas --version says {stated!r}")
    run(programs / "lossatlas", *DEMO, where=folder)
    if not list(folder.glob("survey*/report.html")):
        raise SystemExit("FAILED: the demo wrote no report.html")


def check_types(programs: Path, folder: Path) -> None:
    """The sample is typed, runs, and a wrong word in it is an error of the type checker."""
    sample = folder / "sample.py"
    sample.write_text(SAMPLE.read_text("utf-8"), "utf-8")
    run(programs / "mypy", "--strict", "--warn-unused-ignores", sample, where=folder)
    run(programs / "python", sample, where=folder)
    check_pyright(programs, sample)


def check_pyright(programs: Path, sample: Path) -> None:
    """Pyright refuses the lines of the sample that are wrong, and no others."""
    # Unless told, pyright looks for packages where the first python of PATH has them.
    command = [programs / "basedpyright", "--pythonpath", programs / "python"]
    command += ["--level", "error", "--outputjson", sample.name]
    done = subprocess.run(
        command, cwd=sample.parent, capture_output=True, text=True, check=False
    )
    found = {
        each["range"]["start"]["line"] for each in json.loads(done.stdout)["generalDiagnostics"]
    }
    lines = sample.read_text("utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines) if "  # type: ignore" in line}
    if found != wrong:
        raise SystemExit(f"FAILED: pyright refuses lines {sorted(found)}, not {sorted(wrong)}")


def main() -> None:
    """Run all steps in a temporary folder."""
    problem = version_problem()
    say(problem or "versions agree")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, wheel = built(folder / "dist")
        say(f"built {source.name}, {wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB)")
        run(sys.executable, "-m", "twine", "check", "--strict", source, wheel)
        check_contents(source, wheel)
        say("contents and metadata are right")
        programs = installed(wheel, folder / "venv")
        say("installed into a clean environment")
        check_command(programs, folder)
        say("the demo runs")
        check_types(programs, folder)
        say("the types are right, for mypy and for pyright")
        check_lowest(wheel, folder)
        say("the demo and the sample run on the lowest versions")
    if problem:
        # Said first, held back until here: the other steps count before a release is numbered.
        raise SystemExit(problem)


if __name__ == "__main__":
    main()
