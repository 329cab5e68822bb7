"""A folder of frames: ``images/`` beside optional ``labels/`` with equal stems, or images alone, in natural order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streams.errors import StreamError
from streams.frame import ClassSet, LabelledImage, Scene
from streams.sources.files import File
from streams.sources.images import (
    IMAGE_SUFFIXES,
    FrameFault,
    read_image,
    read_label,
    read_size,
    resize_image,
    resize_label,
)

_MOST_HEADERS = 2000  # a header costs about 0.2 ms; a check before the run must stay within seconds
_LABELS_READ_AHEAD = 12
_ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class FolderFiles:
    """Frames of a folder in natural order, and their labels (same length) or None."""

    path: Path
    images: tuple[Path, ...]
    labels: tuple[Path, ...] | None


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts ``frame_9`` before ``frame_10``; equal numbers fall back to the text."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part.lower()) for part in parts], name


def scan_folder(path: Path, *, need_labels: bool = False) -> FolderFiles:
    """Lists and pairs the files of a folder without reading them.

    Args:
        path: Folder with ``images/`` and optionally ``labels/``, or a flat folder of images.
        need_labels: A folder without labels is an error.

    Raises:
        StreamError: Missing or empty folder, an image without label, a label without image, two images of one stem.
    """
    try:
        return _scan(path, need_labels)
    except OSError as error:
        raise StreamError(f"{path}: cannot be read: {error.strerror or error}") from None


def _scan(path: Path, need_labels: bool) -> FolderFiles:
    if not path.exists():
        raise StreamError(f"{path}: no such folder")
    if not path.is_dir():
        raise StreamError(f"{path}: is a file; give a folder with images/ and labels/, or of images")
    root = path / "images" if (path / "images").is_dir() else path
    images = _files(root, IMAGE_SUFFIXES)
    if not images:
        raise StreamError(f"{root}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder{_known_layout(path)}")
    stems: dict[str, Path] = {}
    for image in images:
        if image.stem in stems:
            raise StreamError(f"{root}: {stems[image.stem].name} and {image.name} have the same stem; keep one")
        stems[image.stem] = image
    if not (path / "labels").is_dir():
        if need_labels:
            raise StreamError(f"{path}: no labels/ folder; labelled images need images/ and labels/ with equal stems")
        return FolderFiles(path, images, None)
    if root == path:
        raise StreamError(f"{path}: has labels/ but no images/; move the images to {path / 'images'}")
    labels = {label.stem: label for label in _files(path / "labels", (".png",))}
    for kind, lone in (("image", stems.keys() - labels.keys()), ("label", labels.keys() - stems.keys())):
        if lone:
            other = "label" if kind == "image" else "image"
            first = min(lone, key=natural_key)
            raise StreamError(
                f"{path}: {len(images)} images and {len(labels)} labels (.png); {len(lone)} {kind}(s) have no {other}, "
                f"such as {first!r}"
            )
    return FolderFiles(path, images, tuple(labels[image.stem] for image in images))


def check_files(files: FolderFiles, classes: ClassSet, size: tuple[int, int] | None) -> tuple[int, int]:
    """Checks what can be checked within seconds: headers of up to 2000 pairs, ids of some labels spread evenly.

    Args:
        files: From `scan_folder`.
        classes: Ids that labels may hold.
        size: Size that frames are brought to; None keeps their own, which must then be one for all.

    Returns:
        ``(height, width)`` of the frames as they will be delivered.

    Raises:
        StreamError: Not one readable image, frames of several sizes, a label of another shape, an id out of range.
    """
    found: tuple[int, int] | None = None
    fault = ""
    for index in spread(len(files.images), _MOST_HEADERS):
        image = files.images[index]
        try:
            shape = read_size(image)
        except FrameFault as error:
            fault = fault or str(error)
            continue
        if found is not None and size is None and shape != found:
            raise StreamError(
                f"{image}: {size_words(shape)} in a folder of {size_words(found)} frames; "
                f"give 'size: [height, width]' to bring all to one size"
            )
        found = found or shape
        if files.labels is not None:
            check_aspect(shape, _label_size(files.labels[index]), files.labels[index])
    if found is None:
        raise StreamError(f"{files.path}: none of {len(files.images)} files can be read as an image ({fault})")
    for index in spread(len(files.labels or ()), _LABELS_READ_AHEAD):
        read_label((files.labels or ())[index], classes)
    return size or found


class FolderSource:
    """Frames of a folder for a stream, with labels at their own size.

    Args:
        files: From `scan_folder`.
        classes: Ids that labels may hold.
        size: Height and width that frames are brought to; None keeps their own.

    Attributes:
        size: Height and width of every frame.
        speed_mps: 0: how fast the camera drove is not known, and weather is rendered as for one that stands.

    Raises:
        StreamError: As `check_files`.
    """

    speed_mps = 0.0

    def __init__(self, files: FolderFiles, classes: ClassSet, size: tuple[int, int] | None = None) -> None:
        self._files = files
        self._classes = classes
        self._resize = size is not None
        self.size = check_files(files, classes, size)

    def __len__(self) -> int:
        return len(self._files.images)

    def read(self, index: int) -> tuple[Scene, NDArray[np.uint8] | None]:
        """Frame `index` (no depth, camera unknown) and its label apart from it.

        Raises:
            FrameFault: The image cannot be decoded, or has another size than the rest.
            StreamError: The label cannot be read, has another shape, or an id outside the class set.
        """
        path = self._files.images[index]
        image = read_image(path)
        own = image.shape[:2]
        if self._resize:
            image = resize_image(image, self.size)
        elif own != self.size:
            raise FrameFault(f"{path.name}: {size_words(own)} in a stream of {size_words(self.size)} frames")
        return Scene(image=image), self._label(index, own)

    def _label(self, index: int, image_size: tuple[int, ...]) -> NDArray[np.uint8] | None:
        if self._files.labels is None:
            return None
        path = self._files.labels[index]
        label = read_label(path, self._classes)
        check_aspect(image_size, label.shape, path)
        return label


class FolderImages:
    """A labelled folder by index (a `LabelledSet`), in temporal order; the label is brought to its image's size.

    Args:
        path: Folder with ``images/`` and ``labels/``.
        classes: Ids that labels may hold.
        size: Height and width that pairs are brought to; None keeps the images' own.

    Raises:
        StreamError: Any fault of the folder, also later when a damaged file is reached.
    """

    def __init__(self, path: str | Path, classes: ClassSet, size: tuple[int, int] | None = None) -> None:
        self._files = scan_folder(Path(path), need_labels=True)
        self._classes = classes
        self._size = check_files(self._files, classes, size)

    @property
    def classes(self) -> ClassSet:
        return self._classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every pair."""
        return self._size

    def __len__(self) -> int:
        return len(self._files.images)

    def __getitem__(self, index: int) -> LabelledImage:
        path, labels = self._files.images[index], self._files.labels or ()
        try:
            image = read_image(path)
        except FrameFault as error:
            raise StreamError(f"{path.parent}: {error}; remove the file and its label") from None
        label = read_label(labels[index], self._classes)
        check_aspect(image.shape, label.shape, labels[index])
        return LabelledImage(resize_image(image, self._size), resize_label(label, self._size))


def _known_layout(path: Path) -> str:
    """A hint where the folder is a data set."""
    from streams.datasets.registry import recognise  # the readers use this file

    found = recognise(path)
    if not found:
        return ""
    return f"; it holds {found[0].TITLE}: python -m online_uda.data check {path} says how to use it"


def _files(folder: Path, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    found = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    return tuple(sorted(found, key=lambda path: natural_key(path.name)))


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of the indices 0 to count - 1, evenly spread, both ends included."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _label_size(path: Path) -> tuple[int, int]:
    try:
        return read_size(path)
    except FrameFault as error:
        raise StreamError(f"{path.parent}: the label cannot be read: {error}") from None


def check_aspect(image: tuple[int, ...], label: tuple[int, ...], path: File) -> None:
    """Refuses a label whose sides are in another ratio than its image's.

    Raises:
        StreamError: Names the label.
    """
    ratio = (image[1] * label[0]) / (image[0] * label[1])
    if abs(ratio - 1) > _ASPECT_TOLERANCE:
        raise StreamError(
            f"{path}: the label is {size_words(label)}, its image {size_words(image)}; the shapes do not match"
        )


def size_words(size: tuple[int, ...]) -> str:
    """(height, width) as people write it: ``2048x1024``."""
    return f"{size[1]}x{size[0]}"
