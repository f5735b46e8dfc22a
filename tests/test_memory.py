"""Free memory: what a container may take counts, not what the machine has."""

import pytest
import torch

from lossatlas import memory


@pytest.mark.parametrize(("limit", "room"), [("1000000", 700_000), ("max", None)])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, limit, room):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 100000\n")
    files = (tmp_path, "memory.max", "memory.current", "inactive_file")
    monkeypatch.setattr(memory, "_CGROUPS", (files,))
    found = memory.free_memory(torch.device("cpu"))
    assert found == room if room else found > 1_000_000
