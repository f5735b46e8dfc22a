"""The jobs of the guide for clusters, with processes of this machine in the place of nodes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lossatlas as la

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide" / "large-models.md").read_text("utf-8")
SMALL = "--set train.steps=5 --points 5 --resume"


def slurm_script():
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", GUIDE, re.S)
    return script


def kubernetes_script():
    (text,) = re.findall(r"```yaml\n(apiVersion.*?)```", GUIDE, re.S)
    job = yaml.safe_load(text)
    assert (job["kind"], job["spec"]["completionMode"]) == ("Job", "Indexed")
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["sh", "-c"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"/results"}
    return container["args"][0]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("script", "shell", "index"),
    [
        (slurm_script, "bash", "SLURM_ARRAY_TASK_ID"),
        (kubernetes_script, "sh", "JOB_COMPLETION_INDEX"),
    ],
    ids=["slurm", "kubernetes"],
)
def test_jobs_of_two_nodes_write_a_survey_each(tmp_path, script, shell, index):
    scripts = Path(sys.executable).parent
    if not (scripts / "torchrun").exists():
        pytest.skip("torchrun is not beside this Python")
    command = script().replace("--nproc-per-node 8", "--nproc-per-node 2")
    command = command.replace("/results", str(tmp_path)).replace("--resume", SMALL)
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(la.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    nodes = [
        subprocess.Popen(
            [shutil.which(shell), "-c", command],
            cwd=tmp_path,
            env=environment | {index: str(node)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    said = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    surveys = [la.load(tmp_path / f"survey-{node}" / "survey.nc") for node in range(2)]
    assert surveys[0].landscape.values.shape == (5, 5)
    assert (surveys[0].landscape.values != surveys[1].landscape.values).any()
