"""The graph that autograd has recorded behind a tensor."""

from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.autograd.graph import Node


def nodes_behind(values: Iterable[Tensor]) -> Iterator[Node]:
    """The nodes of a graph, each once."""
    waiting = [value.grad_fn for value in values]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        yield node
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]


def leaves_behind(values: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors that a graph starts from and that require a gradient."""
    for node in nodes_behind(values):
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
