"""How much memory is left."""

from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes of memory that may still be taken on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        # Free pages alone would leave out what the file cache gives back on demand.
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
