"""What of a checkpoint fits a model."""

from dataclasses import dataclass

from detectron2.config import instantiate
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig

from d2_regnet.checkpoint import read

__all__ = ["BACKBONE", "DETECTOR", "SCRATCH", "Fit", "fit"]

DETECTOR, BACKBONE, SCRATCH = "a trained detector", "a backbone alone", "random values"
_SHOWN = 6


@dataclass(frozen=True)
class Fit:
    """
    Attributes:
        start: `DETECTOR`, `BACKBONE` or `SCRATCH`.
        kept, total: how many of the model's tensors have values in the checkpoint, of how many.
        anew: the layers that have none, or of another shape, so begin at random.
    """

    start: str
    kept: int = 0
    total: int = 0
    anew: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.start == SCRATCH:
            return self.start
        text = f"{self.start}: {self.kept} of {self.total} tensors"
        if self.anew:
            more = f" and {len(self.anew) - _SHOWN} more" if len(self.anew) > _SHOWN else ""
            text += f"; learnt anew: {', '.join(self.anew[:_SHOWN])}{more}"
        return text


def fit(cfg: DictConfig, weights: str) -> Fit:
    """Compares a checkpoint with a config's model; remote weights are fetched into the cache.

    Args:
        cfg: whose `model` it is to be.
        weights: a file or an address; empty for none.

    Raises:
        ValueError: nothing of it fits, or it is no checkpoint.
        FileNotFoundError: there is no such file, or it cannot be fetched.
    """
    if not weights:
        return Fit(SCRATCH)
    path = weights
    if "://" in weights:
        try:
            path = PathManager.get_local_path(weights)
        except Exception as error:
            raise FileNotFoundError(
                f"{weights} cannot be fetched ({error}): download it by hand and give --weights "
                "PATH, or begin with random values: --weights none"
            ) from error
    found = read(path).state
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in instantiate(cfg.model).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    kept = [name for name, shape in wanted.items() if name in found and found[name].shape == shape]
    if not kept:
        raise ValueError(
            f"{weights} has nothing of this model: give one of the same detector and arch; "
            "`d2-regnet convert` converts those of other projects"
        )
    anew = dict.fromkeys(name.rpartition(".")[0] for name in wanted if name not in set(kept))
    detector = any("bottom_up" not in name for name in kept)
    return Fit(DETECTOR if detector else BACKBONE, len(kept), len(wanted), tuple(anew))
