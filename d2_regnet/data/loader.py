"""The training loader: the same batches after a restart and with any number of workers."""

import ctypes
import functools
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawValue
from multiprocessing.util import Finalize

import numpy as np
import torch
from detectron2.data import DatasetFromList
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .mapper import UnusablePicture
from .sampler import TrainingBatchSampler

__all__ = ["TooManySkipped", "build_train_loader", "outlasting_signals"]

_TRIES = 100


class TooManySkipped(RuntimeError):
    """More images cannot be used than the setting allows."""


def build_train_loader(
    dataset: Sequence[dict],
    *,
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    seed: int | None = None,
    max_skipped: float = 0.01,
) -> DataLoader:
    """Endless training batches, in place of Detectron2's `build_detection_train_loader`.

    Its `batch_sampler` is a `TrainingBatchSampler`: set `loader.batch_sampler.start_step` before
    iterating to resume. The images of a step, and the random numbers that their augmentations
    draw, are a pure function of the seed, the step and `total_batch_size`.

    An image of which the mapper raises an error, or returns None, is replaced by another one,
    likewise a function of the seed, and a warning names its file.

    Args:
        dataset: Detectron2's dataset dicts; with `aspect_ratio_grouping` they need `width` and
            `height`.
        mapper: makes a dataset dict into what the model takes. Random numbers that it draws from
            Python's, NumPy's or torch's global generators are those of the sample.
        total_batch_size: images a step over all processes.
        aspect_ratio_grouping: images of a step are all wider than high, or none is, over all
            processes. It saves padding, and no process has to wait for another's larger images.
        num_workers: loading processes; 0 loads in this one.
        seed: decides the order and the augmentations; by default a random one, the same in all
            processes.
        max_skipped: the share of the data set's images, from 0 to 1, that may be unusable; one is
            always allowed, unless it is 0. Each worker counts the files that it comes across.

    Returns:
        Each element is this process's list of mapped dicts.

    Raises:
        ValueError: an impossible argument.
        ImportError: while iterating, from the mapper; the image is not at fault.
        TooManySkipped: while iterating, beyond `max_skipped`.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            "a stream has no order to resume: use a list or a map-style data set, or "
            "detectron2.data.build_detection_train_loader, which starts a stream anew"
        )
    if not 0 <= max_skipped <= 1:
        raise ValueError(f"max_skipped is a share from 0 to 1, not {max_skipped}")
    if aspect_ratio_grouping:
        try:
            groups = [record["width"] > record["height"] for record in dataset]
        except KeyError as error:
            raise ValueError(
                "aspect_ratio_grouping needs the width and height of every image: "
                "add them to the dataset dicts, or turn it off"
            ) from error
    else:
        groups = [False] * len(dataset)
    sampler = TrainingBatchSampler(groups, total_batch_size, seed)
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)  # one copy for all workers
    return _Loader(
        _Samples(dataset, mapper, sampler, max_skipped),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=_as_list,
        generator=torch.Generator(),  # its own: torch would draw from the model's
    )


def _as_list(batch):
    return batch


class _Loader(DataLoader):
    """Its workers outlast signals, and end with the iterator that has started them."""

    def __iter__(self):
        ending = _ended_by_flag(self)
        batches = super().__iter__()
        # At the process's end, before workers are joined.
        Finalize(batches, setattr, (ending, "value", True), exitpriority=0)
        return batches


@contextmanager
def outlasting_signals(loader: Iterable) -> Iterator[Iterable]:
    """The workers of a loader, iterated inside, ignore SIGINT, SIGTERM and SIGUSR1: a signal to all
    processes asks the work to end after the batch at hand. They end with the block. What is no
    DataLoader, such as a list of batches, has no workers and is left alone.

    Without it, workers that were started under `engine.hooks.StopOnSignal` would have inherited its
    handlers, and multiprocessing, which ends workers by SIGTERM, would wait for them forever.
    """
    if not isinstance(loader, DataLoader):
        yield loader
        return
    ending = _ended_by_flag(loader)
    try:
        yield loader
    finally:
        ending.value = True


def _ended_by_flag(loader: DataLoader) -> ctypes.c_bool:
    """A flag that, once set, ends the workers that the loader starts next; no signal does."""
    ending = RawValue(ctypes.c_bool, False)
    loader.worker_init_fn = functools.partial(_outlast_signals, ending)
    return ending


def _outlast_signals(ending: ctypes.c_bool, worker: int) -> None:
    """A signal to all processes asks the training to end after its step, for which it still needs
    its workers; they end when it tells them to, or when it has ended."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(ending, os.getppid()), daemon=True).start()


def _end_with(ending: ctypes.c_bool, parent: int) -> None:
    """multiprocessing ends its workers at exit by SIGTERM, and would wait for these forever; one
    whose parent was killed could wait forever for someone to take its batch."""
    while not ending.value and os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


@contextmanager
def _random_numbers_of(*key: int) -> Iterator[None]:
    """Python's, NumPy's and torch's global generators are seeded inside, and go on after it as
    before."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class _Samples(Dataset):
    """(index, sample number) -> that image mapped, or another one's in its place."""

    def __init__(self, dataset, mapper, sampler, max_skipped):
        self._dataset = dataset
        self._mapper = mapper
        self._sampler = sampler
        self._allowed = max(int(max_skipped * len(dataset)), 1) if max_skipped else 0
        self._skipped = set()

    def __getitem__(self, sample: tuple[int, int]) -> dict:
        index, number = sample
        seed = self._sampler.seed
        others = np.random.default_rng((seed, number))
        error: Exception | None = None
        for _ in range(_TRIES):
            record = self._dataset[index]
            try:
                with _random_numbers_of(seed, number):
                    mapped = self._mapper(record)
                if mapped is not None:
                    return mapped
                error = UnusablePicture(f"{_name(record, index)}: the mapper returned nothing")
            except ImportError:  # no image's fault
                raise
            except Exception as raised:
                error = raised
            self._skip(index, record, error)
            index = int(others.integers(len(self._dataset)))
        raise TooManySkipped(
            f"{_TRIES} images in a row cannot be used, the last: {error}"
        ) from error

    def _skip(self, index: int, record: dict, error: Exception) -> None:
        if index in self._skipped:
            return
        self._skipped.add(index)
        reason = str(error)
        if not isinstance(error, UnusablePicture):
            reason = f"{_name(record, index)}: {type(error).__name__}: {reason}"
        count = f"{len(self._skipped)} of {len(self._dataset)}, at most {self._allowed}"
        if len(self._skipped) > self._allowed:
            raise TooManySkipped(
                f"too many images cannot be used ({count}), the last: {reason}. "
                "`d2-regnet check-dataset` lists them; dataloader.train.max_skipped sets the share"
            ) from error
        logging.getLogger(__name__).warning("Skipped an image (%s): %s", count, reason)


def _name(record, index: int) -> str:
    named = isinstance(record, dict) and record.get("file_name")
    return named or f"image {index} of the data set"
