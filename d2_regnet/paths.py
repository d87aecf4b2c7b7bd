"""``regnet://`` wherever Detectron2 takes a path; `checkpoint.catalog` knows the names.

Importing this registers the handler with Detectron2's `PathManager`. The catalogue, and the
converter behind it, are imported when a path is first asked for.
"""

from typing import IO

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

PREFIX = "regnet://"


class RegNetHandler(PathHandler):
    """Resolves ``regnet://source/name`` to a local file, which can only be read."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        from d2_regnet.checkpoint import catalog

        self._check_kwargs(kwargs)
        return catalog.get_local_path(path, force=force)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs) -> IO:
        if mode not in ("r", "rb"):
            raise ValueError(f"{path} can only be read, not opened in mode {mode!r}")
        return open(self._get_local_path(path, **kwargs), mode, buffering)

    def _exists(self, path: str, **kwargs) -> bool:
        from d2_regnet.checkpoint import catalog

        self._check_kwargs(kwargs)
        try:
            return bool(catalog.address(path))
        except ValueError:
            return False

    def _isfile(self, path: str, **kwargs) -> bool:
        return self._exists(path, **kwargs)

    def _isdir(self, path: str, **kwargs) -> bool:
        self._check_kwargs(kwargs)
        return False


PathManager.register_handler(RegNetHandler(), allow_override=True)
