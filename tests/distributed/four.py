"""What four processes check: a mesh of two by two, of replicas and of shards."""

from pathlib import Path

from torch import distributed

import lossatlas as la
from distributed.problems import CE, batches, network, values


def _mesh():
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))


def _values(rank: int, mesh, *, layers: list[int], whole: bool):
    from torch.distributed.fsdp import fully_shard

    model = network()
    for layer in layers:
        fully_shard(model[layer], mesh=mesh)
    if whole:
        fully_shard(model, mesh=mesh)
    # Three batches: the last process has none.
    held = batches()[rank::4]
    return values(la.Objective(model, CE, held, group=distributed.group.WORLD))


def replicas_of_shards(rank: int, folder: Path):
    mesh = _mesh()
    return {
        "layers": _values(rank, mesh, layers=[0, 2], whole=True),
        "model": _values(rank, mesh, layers=[], whole=True),
        # The last layer is whole on every process.
        "first": _values(rank, mesh, layers=[0], whole=False),
    }


def a_layer_that_all_hold(rank: int, folder: Path):
    """Derivatives by differences of a model of which one layer alone is sharded."""
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model[0], mesh=_mesh())
    options = {"group": distributed.group.WORLD, "derivatives": "differences"}
    objective = la.Objective(model, CE, batches()[rank::4], **options)
    spectrum = {"top": 1, "bottom": 0, "density": False, "seed": 1}
    top = la.spectrum(objective, curvature="gauss_newton", **spectrum).top
    return [la.spectrum(objective, **spectrum).top.tolist(), top.tolist()]


CHECKS = [replicas_of_shards, a_layer_that_all_hold]
