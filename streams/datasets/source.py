"""A listing as frames of a stream, and as labelled source images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streams.datasets.base import Listing, Sample
from streams.datasets.frame_cache import CachedFrame, FrameCache
from streams.errors import StreamError
from streams.frame import ClassSet, Intrinsics, LabelledImage, Scene
from streams.sources.folder import check_aspect, size_words, spread
from streams.sources.images import FrameFault, read_image, read_size, resize_image, resize_label

_MOST_HEADERS = 2000
_LABELS_READ_AHEAD = 12


def check_listing(listing: Listing, classes: ClassSet, size: tuple[int, int] | None) -> tuple[int, int]:
    """Checks what can be checked within seconds: pairs, headers of up to 2000 of them, ids of some labels.

    Args:
        listing: From the ``scan`` of a reader.
        classes: Class set that labels are converted to.
        size: Size that frames are brought to; None keeps their own, which must then be one for all.

    Returns:
        ``(height, width)`` of the frames as they will be delivered.

    Raises:
        StreamError: No frame, not one readable image, a missing label, frames of several sizes, a label of another
            shape, an id that its files may not hold.
    """
    if not listing.samples:
        raise StreamError(f"{listing.root}: {listing.what} has no frames")
    listing.check_pairs()
    found: tuple[int, int] | None = None
    fault = ""
    for index in spread(len(listing.samples), _MOST_HEADERS):
        sample = listing.samples[index]
        try:
            shape = read_size(sample.image)
        except FrameFault as error:
            fault = fault or str(error)
            continue
        if found is not None and size is None and shape != found:
            raise StreamError(
                f"{sample.image}: {size_words(shape)} among frames of {size_words(found)}; "
                f"give 'size: [height, width]' or --size HxW to bring all to one size"
            )
        found = found or shape
        if sample.label is not None:
            check_aspect(shape, _header(sample), sample.label)
    if found is None:
        raise StreamError(f"{listing.root}: none of {len(listing.samples)} files can be read as an image ({fault})")
    labelled = listing.labelled
    for index in spread(len(labelled), _LABELS_READ_AHEAD):
        read_label(listing, labelled[index], classes)
    return size or found


def _header(sample: Sample) -> tuple[int, int]:
    assert sample.label is not None
    try:
        return read_size(sample.label)
    except FrameFault as error:
        raise StreamError(f"{sample.label}: the label cannot be read: {error}") from None


def read_label(listing: Listing, sample: Sample, classes: ClassSet) -> NDArray[np.uint8] | None:
    """The label of a sample in the ids of `classes`; None where it has none.

    Raises:
        StreamError: The file is damaged or holds an id that it may not.
    """
    if sample.label is None or listing.labels is None:
        return None
    return listing.labels.read(sample.label, classes)


class DatasetSource:
    """Frames of a listing for a stream, with labels at their own size.

    Args:
        listing: From the ``scan`` of a reader.
        classes: Class set that labels are converted to.
        size: Height and width that frames are brought to; None keeps their own.

    Attributes:
        size: Height and width of every frame.
        speed_mps: 0: how fast the camera drove is not read, and weather is rendered as for one that stands.

    Raises:
        StreamError: As `check_listing`.
    """

    speed_mps = 0.0

    def __init__(self, listing: Listing, classes: ClassSet, size: tuple[int, int] | None = None) -> None:
        self.listing = listing
        self._classes = classes
        self._depth = False
        self._resize = size is not None
        self.size = check_listing(listing, classes, size)
        cache = FrameCache(listing.root, self.size)
        self._cache = cache if self._resize and cache.is_there else None

    def __len__(self) -> int:
        return len(self.listing.samples)

    def with_depth(self) -> DatasetSource:
        """The same frames with their depth and camera, which weather needs and everything else can do without."""
        other = copy.copy(self)
        other._depth = True
        return other

    def read(self, index: int) -> tuple[Scene, NDArray[np.uint8] | None]:
        """Frame `index` and its label apart from it; see `with_depth`.

        Raises:
            FrameFault: The image cannot be decoded, or has another size than the rest.
            StreamError: Label, depth or calibration is faulty.
        """
        sample = self.listing.samples[index]
        frame = self._cache.load(sample, depth=self._depth) if self._cache is not None else None
        if frame is None:
            frame = self.decode(sample, depth=self._depth)
        label = read_label(self.listing, sample, self._classes)
        if label is not None and sample.label is not None:
            check_aspect(frame.own, label.shape, sample.label)
        if not self._depth:
            return Scene(image=frame.image), label
        return Scene(frame.image, None, frame.depth_m, self._camera_of(sample, frame.own)), label

    def decode(self, sample: Sample, *, depth: bool) -> CachedFrame:
        """A frame from its files, at the size of this source.

        Raises:
            FrameFault: The image cannot be decoded, or has another size than the rest.
            StreamError: The depth is faulty.
        """
        image = read_image(sample.image)
        own = image.shape[0], image.shape[1]
        if self._resize:
            image = resize_image(image, self.size)
        elif own != self.size:
            raise FrameFault(f"{sample.image.name}: {size_words(own)} in a stream of {size_words(self.size)} frames")
        return CachedFrame(image, own, self._depth_of(sample) if depth else None)

    def _depth_of(self, sample: Sample) -> NDArray[np.float32] | None:
        if self.listing.read_depth is None or sample.depth is None:
            return None
        depth = self.listing.read_depth(sample)
        if depth.shape == self.size:
            return depth
        import cv2  # heavy, and needed only for weather on depth of another size

        # Between a near and a far surface lies none: depth is picked, never mixed.
        resized = cv2.resize(depth, self.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return resized.astype(np.float32, copy=False)

    def _camera_of(self, sample: Sample, own: tuple[int, ...]) -> Intrinsics | None:
        camera = None if self.listing.read_camera is None else self.listing.read_camera(sample)
        if camera is None:
            return None
        down, right = self.size[0] / own[0], self.size[1] / own[1]
        return replace(camera, fx=camera.fx * right, cx=camera.cx * right, fy=camera.fy * down, cy=camera.cy * down)


class DatasetImages:
    """The labelled frames of a listing by index (a `LabelledSet`); a label is brought to its image's size.

    Args:
        listing: From the ``scan`` of a reader.
        classes: Class set that labels are converted to.
        size: Height and width that pairs are brought to; None keeps the images' own.

    Raises:
        StreamError: Any fault of the files, also later when a damaged one is reached.
    """

    def __init__(self, listing: Listing, classes: ClassSet, size: tuple[int, int] | None = None) -> None:
        if not listing.labelled:
            why = f" ({listing.notes[0]})" if listing.notes else ""
            raise StreamError(f"{listing.root}: {listing.what} has no labels{why}; source images need them")
        self.listing = replace(listing, samples=listing.labelled)
        self._classes = classes
        self._size = check_listing(self.listing, classes, size)
        cache = FrameCache(listing.root, self._size)
        self._cache = cache if size is not None and cache.is_there else None

    @property
    def classes(self) -> ClassSet:
        return self._classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every pair."""
        return self._size

    def __len__(self) -> int:
        return len(self.listing.samples)

    def class_pixels(
        self, progress: Callable[[int, int], None] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels of each class ``(N, C)`` and of all ``(N,)`` in the label files, read once and kept.

        Raises:
            StreamError: A label is faulty; names the file.
        """
        from streams.datasets.statistics import label_statistics

        found = label_statistics(self.listing, self._classes, progress)
        if found.faults:
            raise StreamError(found.faults[0])
        return found.counts, found.areas

    def __getitem__(self, index: int) -> LabelledImage:
        sample = self.listing.samples[index]
        try:
            frame = self._cache.load(sample, depth=False) if self._cache is not None else None
            image = read_image(sample.image) if frame is None else frame.image
        except FrameFault as error:
            raise StreamError(f"{sample.image}: {error}; remove the file and its label") from None
        label = read_label(self.listing, sample, self._classes)
        assert label is not None
        assert sample.label is not None
        check_aspect(image.shape if frame is None else frame.own, label.shape, sample.label)
        return LabelledImage(resize_image(image, self._size), resize_label(label, self._size))
