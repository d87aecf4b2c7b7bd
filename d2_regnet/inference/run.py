"""All frames of all sources through a predictor, and their results on disk."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from d2_regnet.utils.progress import progress

from .inputs import File, Frame, Source
from .outputs import Results, VideoWriter, write_image
from .predictor import Predictor

logger = logging.getLogger(__name__)


def predict(
    predictor: Predictor,
    sources: Sequence[Source],
    output: Path,
    *,
    draw: bool = True,
    max_frames: int | None = None,
) -> tuple[Results, dict[str, str]]:
    """Predicts, draws and writes; Ctrl-C ends it early, with what there is by then.

    Args:
        sources: see `find_sources`.
        output: the folder of the results, made if need be.
        draw: write the drawn images and videos, too.
        max_frames: of each video or camera.

    Returns:
        The results, written if any input was read, and the sources that could not be read:
        name -> reason.
    """
    results, unread = Results(predictor.metadata), {}
    total = sum(min(each.count, max_frames or each.count) for each in sources)
    endless = any(not each.count for each in sources)
    with ExitStack() as stack:
        total = None if endless else total
        bar = stack.enter_context(progress(total=total, unit="image", desc="images"))
        writers = {}
        frames = _frames(sources, max_frames, unread)
        try:
            while batch := list(islice(frames, predictor.batch_size)):
                images = [frame.image for frame in batch]
                found = predictor.stream(images, array_format="RGB")
                for frame, prediction in zip(batch, found):
                    results.add(frame, prediction)
                    if draw:
                        _draw(frame, prediction, writers, stack)
                bar.update(len(batch))
        except KeyboardInterrupt:
            logger.warning("Stopped: what was predicted until now is written")
    if results.counts[0]:
        output.mkdir(parents=True, exist_ok=True)
        results.write(output)
    return results, unread


def _frames(
    sources: Sequence[Source], max_frames: int | None, unread: dict[str, str]
) -> Iterator[Frame]:
    for source in sources:
        try:
            yield from islice(source.frames(), max_frames)
        except Exception as error:  # what a damaged file makes Pillow raise can be anything
            told = isinstance(error, OSError | ValueError)
            reason = str(error) if told else f"{type(error).__name__}: {error}"
            unread[source.name] = " ".join(reason.split())


def _draw(frame: Frame, prediction, writers: dict, stack: ExitStack) -> None:
    source = frame.source
    if isinstance(source, File):
        write_image(prediction.draw(frame.image), source.target)
        return
    if source not in writers:
        writers[source] = stack.enter_context(VideoWriter(source))
    writers[source].add(prediction.draw(frame.image, enlarge=False))
