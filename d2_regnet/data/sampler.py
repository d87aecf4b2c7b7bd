"""The order of the training images: a pure function of the seed and the step.

Whoever knows the seed knows every batch of a run, so a resumed run continues at its step without
having read or decoded what came before; and a batch is the same images with the same random
numbers however many processes share it, and however many workers load it.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.utils import comm
from torch.utils.data import Sampler

__all__ = ["TrainingBatchSampler", "global_batches"]


def global_batches(
    groups: Sequence[int] | np.ndarray, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[np.ndarray]:
    """The batches of an infinite training, over all processes, from a step on.

    The data set is shuffled anew for each epoch. A batch holds images of one group only; what is
    left of a group at the end of an epoch is first in the next, so that no image is ever left
    out. Batches come in the order in which they fill.

    Args:
        groups: the group of each image, such as 1 for landscape and 0 for portrait.
        batch_size: images in a batch.
        seed: not negative.
        start_step: how many batches to pass over. An epoch costs no more than its shuffling.

    Yields:
        int64 (batch_size, 2): (sample number, index into the data set). The sample number counts
        the images of the whole training; no two samples share one.
    """
    of_image = np.asarray(groups)
    kinds = np.unique(of_image)
    left = np.empty((0, 2), np.int64)
    for epoch in itertools.count():
        order = np.random.default_rng((seed, epoch)).permutation(len(groups))
        numbers = np.arange(epoch * len(groups), (epoch + 1) * len(groups))
        stream = np.concatenate([left, np.stack([numbers, order], axis=1)])
        members = [stream[of_image[stream[:, 1]] == kind] for kind in kinds]
        whole = [len(m) - len(m) % batch_size for m in members]
        left = np.concatenate([m[n:] for m, n in zip(members, whole)])
        batches = np.concatenate([m[:n] for m, n in zip(members, whole)])
        batches = batches.reshape(-1, batch_size, 2)
        batches = batches[np.argsort(batches[:, -1, 0])]
        yield from batches[start_step:]
        start_step = max(0, start_step - len(batches))


class TrainingBatchSampler(Sampler[list[tuple[int, int]]]):
    """One process's part of `global_batches`: the `rank`-th of `world_size` equal slices of each
    batch.

    Attributes:
        seed: decides the order.
        start_step: the step that iteration begins with; set it to resume.
        accumulate: batches a step, together one of `global_batches`; set it before iterating.
    """

    def __init__(self, groups: Sequence[int], total_batch_size: int, seed: int | None = None):
        """
        Args:
            groups: as for `global_batches`; its length is the size of the data set.
            total_batch_size: images a step, over all processes.
            seed: by default a random one, the same in all processes.

        Raises:
            ValueError: an empty data set, a negative seed, or a batch that processes cannot share
                equally.
        """
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()
        if not len(groups):
            raise ValueError("there is no image to train on: the data set is empty")
        if total_batch_size < 1 or total_batch_size % self._world_size:
            raise ValueError(
                f"dataloader.train.total_batch_size={total_batch_size} does not divide among "
                f"{self._world_size} process(es): choose a multiple"
            )
        if seed is not None and seed < 0:
            raise ValueError(f"the seed of the data must not be negative, but is {seed}")
        self._groups = np.asarray(groups)
        self._total_batch_size = total_batch_size
        self.seed = comm.shared_random_seed() if seed is None else seed
        self.start_step, self.accumulate = 0, 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self._total_batch_size // self._world_size
        of_a_step = self._total_batch_size * self.accumulate
        for batch in global_batches(self._groups, of_a_step, self.seed, self.start_step):
            for first in range(self._rank * size, of_a_step, self._total_batch_size):
                mine = batch[first : first + size].tolist()
                yield [(index, number) for number, index in mine]

    def state_dict(self) -> dict[str, int]:
        """What, with the step, a checkpoint needs to go on in the same order."""
        return {"seed": self.seed, **self._shape()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues another sampler's order; the step is the caller's to set.

        Raises:
            ValueError: the order was of other data, or of other batches.
        """
        for key, now in self._shape().items():
            if state[key] != now:
                raise ValueError(
                    f"{key} was {state[key]} and is {now}, so the order of the images cannot go "
                    "on: resume with the former data and batch size, or start anew from the "
                    "weights (train.init_checkpoint)"
                )
        self.seed = state["seed"]

    def _shape(self):
        of_a_step = self._total_batch_size * self.accumulate
        return {"dataset_size": len(self._groups), "total_batch_size": of_a_step}
