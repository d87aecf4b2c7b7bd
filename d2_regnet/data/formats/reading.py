"""What all readers of label files share: from documents to a COCO dict and its account."""

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from d2_regnet.data.images import Header, read_header
from d2_regnet.utils.files import is_hidden, walk

from .account import Account, printable
from .folders import Pairs, find_images
from .shape import Unusable, entry_of, join

__all__ = ["TURNED", "Document", "read_label_files"]


TURNED = (
    "turned or mirrored by EXIF, and no size tells whether that was annotated: taken as they are "
    "displayed"
)


@dataclass
class Document:
    """A label file's content.

    Attributes:
        objects: each as the format's `convert` takes it; as many as were written.
        where: what the file calls its objects, such as "line": they are counted from 1.
        size: width and height of the image that was annotated; None if the file does not say.
        image: the image's name or path, as the file has it.
        alone: what to tell where the image is missing.
        remarks: things about the file.
    """

    objects: list
    where: str
    size: tuple[int, int] | None = None
    image: str | None = None
    alone: str = ""
    remarks: list[str] = field(default_factory=list)


def read_label_files(
    format: ModuleType, images: Path, annotations: Path, unlabelled: str | None
) -> tuple[dict, Account]:
    """The label files of a folder, with their images; see `d2_regnet.data.formats.read_dataset`.

    Args:
        format: a module with

            - `NAME`; `SUFFIX` of its label files; `UNLABELLED`, its reading of images without one
              ("skip", "empty"); `ONE_IMAGE`, whether one can describe but one;
            - `places(images, annotations)`: the folder of the label files, and the files that lie
              among them and are none;
            - `load(path)`: a `Document`; ValueError where it is none;
            - `context(documents, images, annotations, account)`: whatever takes all of them to
              know, with `names`: the classes by number, or None if objects have their names;
            - `convert(object, size, context)`: a `Shape`; `Unusable`, or ValueError.
    """
    account = Account()
    labels_folder, others = format.places(images, annotations)
    labels = [
        path
        for path in walk(labels_folder)
        if path.suffix.lower() == format.SUFFIX and path not in others
    ]
    hidden = [path for path in labels if is_hidden(path, labels_folder)]
    for path in hidden:
        account.leave_out("label files", "hidden", path.name)
    labels = [path for path in labels if path not in set(hidden)]
    found = find_images(images, account, {*labels, *hidden, *others})
    problems: list[str] = []
    documents, unread = _documents(format, labels)
    pairs = _pair(Pairs(found, images), documents, unread, labels_folder, format, account, problems)
    context = format.context(list(documents.values()), images, annotations, account)
    builder = _Builder(format, context, account, problems, images)
    for image in found:
        builder.add(image, pairs.get(image), documents, unlabelled or format.UNLABELLED)
    if problems:
        raise ValueError(
            f"annotations: {annotations} cannot be read as {format.NAME}: {len(problems)} "
            f"problem(s), the first: {problems[0]}. Mend these files or objects, or remove them"
        )
    return builder.finished(annotations, documents), account


def _documents(
    format: ModuleType, labels: list[Path]
) -> tuple[dict[Path, Document], dict[Path, str]]:
    """What can be read, and why the rest cannot."""
    documents, unread = {}, {}
    for path in labels:
        try:
            documents[path] = format.load(path)
        except (ValueError, RecursionError) as error:
            unread[path] = printable(f"{path.name}: {error}")
    return documents, unread


def _pair(
    pairs: Pairs,
    documents: dict[Path, Document],
    unread: dict[Path, str],
    folder: Path,
    format: ModuleType,
    account: Account,
    problems: list[str],
) -> dict[Path, Path]:
    """image -> label file; the other label files are left out."""
    chosen: dict[Path, Path] = {}
    everywhere = []
    for path in sorted([*documents, *unread]):
        images = pairs.at(path, folder)
        stated = documents[path].image if path in documents else None
        if len(images) > 1 and stated:
            named = pairs.named(path, stated)
            images = [each for each in images if each in named] or images
        if not images:
            everywhere.append((path, stated))
        for image in images:
            _take(chosen, image, path, problems)
        if len(images) > 1:
            names = ", ".join(each.name for each in images)
            if format.ONE_IMAGE:
                problems.append(printable(f"{path.name} could describe any of {names}"))
            else:
                account.remark("label files", "describes several images of its name", names)
    taken = set(chosen)
    for path, stated in everywhere:
        images = pairs.named(path, stated) if stated else []
        if len(images) != 1:
            images = pairs.elsewhere(path, taken) or images
        free = [image for image in images if image not in taken]
        if len(free) == 1:
            _take(chosen, free[0], path, problems)
        else:
            reason = "there is no image of its name"
            if images:
                reason = "its image has another label file" if not free else "several images fit"
            if path in unread:
                reason += f", and no {format.NAME}"
            elif not images:
                reason += documents[path].alone
            account.leave_out("label files", reason, str(path.relative_to(folder)))
            if path in documents:
                count = len(documents[path].objects)
                account.leave_out(
                    "objects", f"of a label file left out: {reason}", path.name, count
                )
    problems += [unread[path] for path in chosen.values() if path in unread]
    return chosen


def _take(chosen: dict[Path, Path], image: Path, path: Path, problems: list[str]) -> None:
    other = chosen.setdefault(image, path)
    if other != path:
        problems.append(printable(f"{image.name} has two label files, {other} and {path}"))


class _Builder:
    """The COCO dict, image by image."""

    def __init__(self, format, context, account: Account, problems: list[str], folder: Path):
        self._format, self._context, self._account = format, context, account
        self._problems, self._folder = problems, folder
        self._images, self._found = [], []
        self._left_out_names: dict[str, str] = {}
        self._labels_used: set[Path] = set()
        self._labels_left_out: dict[Path, tuple[str, str]] = {}

    def add(
        self, image: Path, label: Path | None, documents: dict[Path, Document], unlabelled: str
    ) -> None:
        name, document = str(image.relative_to(self._folder)), label and documents.get(label)
        account = self._account
        if document is None and label is not None:  # of which there is a problem already
            return
        if document is None and unlabelled == "skip":
            reason = (
                f"no {self._format.SUFFIX} file, so nobody has labelled them (`--unlabelled empty` "
                "takes them as showing nothing)"
            )
            account.leave_out("images", reason, name)
            return
        try:
            header = read_header(image)
            if not min(header.stored):
                raise OSError("no pixels")
        except Exception as error:  # what a damaged file makes Pillow raise can be anything
            self._leave_out_image(name, label, f"unreadable: {type(error).__name__}")
            return
        size = header.displayed
        if document is None:
            account.remark(
                "images",
                f"no {self._format.SUFFIX} file: taken as showing nothing (`--unlabelled skip` "
                "leaves them out)",
                name,
            )
        else:
            size = _size(header, document.size)
            if size is None:
                written = " x ".join(map(str, document.size or ()))
                self._leave_out_image(name, label, f"annotated at another size, such as {written}")
                return
            if header.turned and (document.size is None or header.stored == header.displayed):
                account.remark("images", TURNED, name)
        number = len(self._images) + 1
        width, height = size
        self._images.append({"id": number, "file_name": name, "width": width, "height": height})
        account.use("images")
        if label is not None and document is not None:
            self._add_objects(number, label, document, size)

    def _leave_out_image(self, name: str, label: Path | None, reason: str) -> None:
        self._account.leave_out("images", reason, name)
        if label is not None:
            self._labels_left_out.setdefault(label, (f"of an image that is {reason}", name))

    def _count_unused_labels(self, documents: dict[Path, Document]) -> None:
        """Those of images left out, unless they describe another image as well."""
        for label, (reason, name) in self._labels_left_out.items():
            if label not in self._labels_used:
                count = len(documents[label].objects)
                self._account.leave_out("label files", reason, name)
                self._account.leave_out("objects", reason, name, count)

    def _add_objects(self, image: int, label: Path, document: Document, size) -> None:
        # Of the second image that one label file describes, nothing is counted again.
        account = Account() if label in self._labels_used else self._account
        self._labels_used.add(label)
        account.use("label files")
        for remark in document.remarks:
            account.remark("label files", remark, label.name)
        groups: dict[tuple, dict] = {}
        seen: set[str] = set()
        for index, one in enumerate(document.objects, 1):
            where = f"{label.name}, {document.where} {index}"
            try:
                shape = self._format.convert(one, size, self._context)
                entry = entry_of(shape, size)
                written = f"{shape.name} {entry}"
                if written in seen and shape.group is None:
                    raise Unusable("an exact copy of another in its image")
            except Unusable as error:
                account.leave_out("objects", str(error), where)
                if error.name:
                    self._left_out_names.setdefault(error.name, where)
                continue
            except ValueError as error:
                self._problems.append(printable(f"{where}: {error}"))
                continue
            seen.add(written)
            account.use("objects")
            for remark in (*shape.remarks, *entry.pop("remarks")):
                account.remark("objects", remark, where)
            key = (shape.name, str(shape.group))
            if shape.group is not None and key in groups:
                account.remark("objects", "a further part of another, by their group", where)
                join(groups[key], entry, size)
                continue
            groups[key] = entry
            self._found.append((image, shape.name, entry))

    def finished(self, annotations: Path, documents: dict[Path, Document]) -> dict:
        self._count_unused_labels(documents)
        account, names = self._account, self._context.names
        why = "".join(f"; {line}" for line in account.lines()[:4])
        if not self._images:
            raise ValueError(
                f"images: {self._folder} has no images, or none with annotations in {annotations}"
                + why
            )
        if not self._found and (names is None or why):
            raise ValueError(
                f"annotations: {annotations} has nothing of the format {self._format.NAME}, or no "
                f"object that can be used{why}"
            )
        names = names or dict(enumerate(sorted({name for _, name, _ in self._found})))
        ids = {name: index + 1 for index, name in reversed(names.items())}
        account.use("classes", len(names))
        for name, where in self._left_out_names.items():
            if name not in ids:
                account.leave_out("classes", f"{name!r} has no object that can be used", where)
        return {
            "images": self._images,
            "categories": [{"id": i + 1, "name": name} for i, name in names.items()],
            "annotations": [
                {"id": number, "image_id": image, "category_id": ids[name], "iscrowd": 0} | entry
                for number, (image, name, entry) in enumerate(self._found, 1)
            ],
        }


def _size(header: Header, annotated: tuple[int, int] | None) -> tuple[int, int] | None:
    """The size whose pixels the annotations are in: as the image is displayed, or as stored."""
    if annotated is None or annotated == header.displayed:
        return header.displayed
    return header.stored if annotated == header.stored else None
