"""Memory: what a container may take counts, and what is freed is given back."""

import ctypes
import sys
from pathlib import Path

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


@pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")),
    reason="needs glibc, which keeps what is freed between tensors that live",
)
def test_what_is_freed_between_living_tensors_is_given_back():
    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    memory.release_memory()
    start = resident()
    # After this one glibc takes tensors of up to its size from the heap.
    large = torch.ones(2**21)
    del large
    pairs = [(torch.ones(2**18), torch.ones(2**12)) for _ in range(64)]
    kept = [small for _, small in pairs]
    del pairs
    memory.release_memory()
    assert resident() - start < 16 * 1024
    assert len(kept) == 64
