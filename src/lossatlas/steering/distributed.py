"""One decision for all ranks: everybody reads, rank 0's reading counts."""

import json

import torch

from lossatlas.steering.reading import Reading


def agreed(reading: Reading | str, device: torch.device) -> Reading | str:
    """Rank 0's reading, on every rank."""
    spread = torch.distributed
    if not (spread.is_available() and spread.is_initialized() and spread.get_world_size() > 1):
        return reading
    plain = reading if isinstance(reading, str) else reading.to_dict()
    text = torch.tensor(list(json.dumps(plain).encode()), dtype=torch.uint8, device=device)
    length = torch.tensor([len(text)], device=device)
    spread.broadcast(length, 0)
    parcel = text if spread.get_rank() == 0 else text.new_zeros(int(length))
    spread.broadcast(parcel, 0)
    found = json.loads(bytes(parcel.tolist()).decode())
    return found if isinstance(found, str) else Reading.from_dict(found)
