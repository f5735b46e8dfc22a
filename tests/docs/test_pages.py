"""The Python of every page runs, from top to bottom; its commands are accepted."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import warnings

import click
import matplotlib.pyplot as plt
import pytest
import torch
from torch import distributed

import lossatlas as la
from docs.site_pages import (
    ELSEWHERE,
    FIRST,
    GO_ON,
    HAS_KERNEL,
    NOT_RUN,
    RUN_COMMANDS,
    WRITES,
    blocks_of,
    commands_of,
    file_of,
    is_script,
    lines_of,
    pages,
    text_of,
    why_not,
)
from lossatlas.cli.app import cli
from lossatlas.curvature.instrument import _REGISTRY

# Packages that examples need and that CI may lack.
OPTIONAL = (
    "deepxde", "diffusers", "pytorch_lightning", "torch_geometric", "transformers",
)  # fmt: skip
os.environ.setdefault("DDE_BACKEND", "pytorch")
PAGES = [
    page
    for page in pages()
    if blocks_of(page)
    and page not in ELSEWHERE
    and (page in RUN_COMMANDS or "/tutorials/" not in page or not HAS_KERNEL)
]
WITH_COMMANDS = [page for page in pages() if commands_of(page)]


def missing_package(block):
    for name in re.findall(r"^(?:from|import) (\w+)", block, re.M):
        if name in OPTIONAL:
            try:
                importlib.import_module(name)
            except ImportError:
                return f"needs {name}"
    return ""


@pytest.fixture
def process(monkeypatch):
    """What torchrun tells a process, the instruments there are, and no figure left open."""
    before = dict(_REGISTRY)
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
    for name in {*_REGISTRY} - {*before}:
        del _REGISTRY[name]
    plt.close("all")


def run(page, names, folder):
    """Run a page; what was left out, and why."""
    left_out = {}
    for number, block in enumerate(blocks_of(page), 1):
        code = compile(block, f"{page}, block {number}", "exec")
        reason = why_not(page, block) or missing_package(block)
        if reason:
            left_out[number] = reason
            continue
        if file_of(block):
            (folder / file_of(block)).write_text(block)
        exec(code, {"__name__": "__main__"} if is_script(block) else names)
    return left_out


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    # Frameworks warn about this machine, and short trainings about themselves.
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        if page in GO_ON:
            assert "(../index.md#in-python)" in text_of(page)
            run(FIRST, names, tmp_path)
        left_out = run(page, names, tmp_path)
        for words in commands_of(page) if page in RUN_COMMANDS else ():
            cli.main(words, standalone_mode=False)
    written = {path.name for path in tmp_path.iterdir() if path.stat().st_size}
    assert WRITES.get(page, set()) <= written
    assert "tutorials/" not in page or capsys.readouterr().out.strip()
    others = {number: why for number, why in left_out.items() if why.startswith("needs ")}
    if others:
        pytest.skip(f"all ran but {'; '.join(f'block {k} {why}' for k, why in others.items())}")


def test_the_list_of_what_does_not_run_is_true():
    for page, first in NOT_RUN:
        assert any(block.startswith(first) for block in blocks_of(page)), (page, first)


@pytest.mark.parametrize("page", PAGES)
def test_names_that_no_run_reaches_exist(page):
    for block in blocks_of(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "la":
                assert hasattr(la, node.attr), f"{page}: la.{node.attr}"


def command_of(words):
    """The command that words name, and its arguments; None for a group or a placeholder."""
    group, words = cli, list(words)
    while isinstance(group, click.Group):
        if not words or words[0].startswith("-") or words[0].isupper():
            return None, words
        name = words.pop(0)
        group = group.get_command(click.Context(group), name)
        assert group is not None, f"no command {name}"
    return group, words


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_a_shell_reads_its_commands(page):
    """What stands on the page can be pasted: `--model mlp(32)` without quotes cannot."""
    for line in lines_of(page):
        given = f"lossatlas {line}"
        done = subprocess.run(
            ["bash", "-n", "-c", given], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{given}\n{done.stderr}"


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_its_commands_are_accepted(page, tmp_path, monkeypatch):
    """Options and their values are read and judged by the settings; nothing is computed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    for words in commands_of(page):
        command, given = command_of(words)
        # A command alone is named, not called.
        if command is None or not given:
            continue
        read = []
        monkeypatch.setattr(command, "run", lambda settings, output, read=read: read.append(1))
        command.main(given, standalone_mode=False)
        assert read or "--list-instruments" in given, words
