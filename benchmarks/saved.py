"""What the backward pass needs of the forward pass."""

from collections.abc import Callable, Iterable

import torch


def saved_bytes(forward: Callable[[], object], parameters: Iterable[torch.Tensor] = ()) -> int:
    """Bytes of the tensors that autograd keeps in a forward pass; shared memory counts once.

    Args:
        forward: returns what the backward pass would start from.
        parameters: not counted, as they are there anyway.
    """
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that kept its own output would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = forward()  # as long as it lives, no address is used twice
    total = sum(kept.values())
    del graph
    return total
