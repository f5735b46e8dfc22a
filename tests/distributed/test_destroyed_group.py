"""A process group that is destroyed while an objective of it is in use."""

import pytest
import torch
from torch import distributed

from lossatlas.errors import RankError
from lossatlas.ranks import Ranks


def test_a_group_that_was_destroyed_is_a_named_error(tmp_path):
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        ranks = Ranks()
        assert ranks.share(lambda: 3) == [3]
    finally:
        distributed.destroy_process_group()
    for call in (
        lambda: ranks.gather(1),
        lambda: ranks.share(lambda: 2),
        lambda: ranks.add(torch.ones(3)),
    ):
        with pytest.raises(RankError, match="restart all of them"):
            call()
    # What went wrong here is told first.
    with pytest.raises(ZeroDivisionError):
        ranks.share(lambda: 1 / 0)
