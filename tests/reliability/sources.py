"""The parts by name."""

from . import checkpoints, data, disk, kills, signals, steps

PARTS = {
    "kills": kills.run,
    "checkpoints": checkpoints.run,
    "disk": disk.run,
    "signals": signals.run,
    "steps": steps.run,
    "data": data.run,
}
