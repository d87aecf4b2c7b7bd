"""Checkpoints that are whole or absent."""

import os

import torch

from d2_regnet.checkpoint import SafetensorsCheckpointer
from d2_regnet.files import whole_file


class Checkpointer(SafetensorsCheckpointer):
    """Detectron2's checkpointer, except that a file appears under its name only when complete.

    What it writes is the same, and `last_checkpoint` names a file that is entirely on disk. It
    reads safetensors, too.
    """

    def save(self, name: str, **kwargs) -> None:
        """Writes the model, the checkpointables and `kwargs` to `<save_dir>/<name>.pth`."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with whole_file(path) as file:
            torch.save(data, file)
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with whole_file(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())
