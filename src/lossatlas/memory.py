"""Free memory, out-of-memory errors, and releasing memory."""

import ctypes
import sys
from pathlib import Path

import torch

_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)

# What torch says in a plain RuntimeError where a processor or a device has no memory.
_SAID = ("DefaultCPUAllocator", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports lack of memory on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error) if isinstance(error, RuntimeError) else ""
    return any(words in message for words in _SAID)


def free_memory(device: torch.device) -> int | None:
    """Available bytes of memory on a device."""
    if device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
        # What torch keeps from the driver for itself, and has not given out.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    limit = _cgroup_room()
    try:
        # Free pages alone would leave out what the file cache gives back on demand.
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return limit
    return free if limit is None else min(free, limit)


def release_memory() -> None:
    """Return freed pages to the system if the C library keeps them (glibc)."""
    # Tensors of up to 32 MB lie in glibc's heap, of which it gives back the top alone.
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _cgroup_room() -> int | None:
    # What a container or a job of a cluster may still take, less the file cache it can drop.
    for folder, most, used, cached in _CGROUPS:
        try:
            limit, taken = (int((folder / name).read_text()) for name in (most, used))
            stat = dict(
                line.split() for line in (folder / "memory.stat").read_text().splitlines()
            )
        except (OSError, ValueError):
            # There is no such limit ("max"), or no such file system.
            continue
        return max(0, limit - taken + int(stat.get(cached, 0)))
    return None
