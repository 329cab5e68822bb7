"""Pixels of every class in every label of a listing: read once with progress, then kept (`cache.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.datasets.base import Listing, Sample
from streams.datasets.cache import load, signature, store
from streams.datasets.source import read_label
from streams.errors import StreamError
from streams.frame import IGNORE_ID, ClassSet
from streams.sources.files import File, file_stamp

Progress = Callable[[int, int], None]
"""Called with the number of labels done and the number of all."""

_VERSION = 1


@dataclass(frozen=True)
class LabelStatistics:
    """Counts over the labels of a listing.

    Attributes:
        counts: ``(N, C)`` int64 pixels of each class in each label; zeros for a faulty one.
        areas: ``(N,)`` int64 pixels of each label; 0 for a faulty one.
        faults: A line for each label that is damaged or holds a strange id; names the file.
    """

    counts: NDArray[np.int64]
    areas: NDArray[np.int64]
    faults: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Share of all pixels that are of a class, not ignored."""
        return float(self.counts.sum() / max(int(self.areas.sum()), 1))

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each class among the labelled pixels ``(C,)``."""
        return self.counts.sum(axis=0) / max(int(self.counts.sum()), 1)


def label_statistics(
    listing: Listing, classes: ClassSet, progress: Progress | None = None, *, cached: bool = True
) -> LabelStatistics:
    """Statistics of the labels of a listing, in the order of its labelled samples.

    Args:
        listing: From the ``scan`` of a reader.
        classes: Class set that labels are converted to.
        progress: Called after every label that is read; not where the cache knows all.
        cached: Whether they are kept and found again. A label that was written since is noticed, faults are not kept.

    Returns:
        Counts, areas and faults.
    """
    samples = listing.labelled
    name = f"labels-{_signature(listing, samples, classes)}" if cached else ""
    stored = load(listing.root, name) if cached else None
    if stored is not None and stored.keys() == {"counts", "areas"} and stored["counts"].shape[1:] == (len(classes),):
        return LabelStatistics(stored["counts"], stored["areas"], ())
    counts = np.zeros((len(samples), len(classes)), np.int64)
    areas = np.zeros(len(samples), np.int64)
    faults = []
    for index, sample in enumerate(samples):
        try:
            label = read_label(listing, sample, classes)
        except StreamError as error:
            faults.append(str(error))
        else:
            assert label is not None
            counts[index] = np.bincount(label.ravel(), minlength=IGNORE_ID + 1)[: len(classes)]
            areas[index] = label.size
        if progress is not None:
            progress(index + 1, len(samples))
    if cached and not faults:
        store(listing.root, name, counts=counts, areas=areas)
    return LabelStatistics(counts, areas, tuple(faults))


def _signature(listing: Listing, samples: tuple[Sample, ...], classes: ClassSet) -> str:
    """Of which files, how they are read and as what; a file that changed has another size or another time."""

    def stamp(file: File | None) -> object:
        try:
            return None if file is None else file_stamp(file)
        except (OSError, KeyError):
            return None

    stamps = (part for sample in samples for part in (sample.label, stamp(sample.label)))
    return signature((_VERSION, listing.labels, classes, *stamps))
