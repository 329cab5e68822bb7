"""What is in a part of a data set: counts, sizes, labels, depth, and everything that would stop a stream."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from streams.datasets.base import DatasetSettings, Listing
from streams.datasets.source import check_listing
from streams.datasets.statistics import LabelStatistics, Progress, label_statistics
from streams.errors import StreamError
from streams.frame import ClassSet
from streams.sources.folder import size_words, spread
from streams.sources.images import FrameFault, read_size

_MOST_HEADERS = 5000


@dataclass
class PartReport:
    """One part, as found.

    Attributes:
        settings: The part.
        listing: Its frames; None where it could not be listed.
        sizes: How many of the images have which size, the most frequent first.
        statistics: Of its labels; None without labels.
        depth_m: Smallest and largest depth of the first frame that has depth; None without.
        faults: What would stop a stream or a training, a line each; names files.
    """

    settings: DatasetSettings
    listing: Listing | None = None
    sizes: list[tuple[str, int]] = field(default_factory=list)
    statistics: LabelStatistics | None = None
    depth_m: tuple[float, float] | None = None
    faults: list[str] = field(default_factory=list)


def inspect_part(settings: DatasetSettings, classes: ClassSet, progress: Progress | None = None) -> PartReport:
    """Reads the names of a part, the headers of up to 5000 images, every label (kept for the next time), one depth.

    Args:
        settings: The part.
        classes: Class set that labels are converted to.
        progress: Called after every label that is read.
    """
    report = PartReport(settings)
    try:
        listing = report.listing = settings.scan()
    except StreamError as error:
        report.faults.append(str(error))
        return report
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable = []
    for index in spread(len(listing.samples), _MOST_HEADERS):
        try:
            sizes[read_size(listing.samples[index].image)] += 1
        except FrameFault as fault:
            unreadable.append(str(fault))
    report.sizes = [(size_words(size), count) for size, count in sizes.most_common()]
    if unreadable:
        report.faults.append(f"{len(unreadable)} image(s) cannot be read, such as {unreadable[0]}")
    if listing.labels is not None:
        report.statistics = label_statistics(listing, classes, progress)
        report.faults += report.statistics.faults
    try:
        listing.check_pairs()
        if not report.faults:  # the check stops at the first of those that are known already
            check_listing(listing, classes, next(iter(sizes), None))
    except StreamError as error:
        report.faults.append(str(error))
    _look_at_depth(report, listing)
    return report


def _look_at_depth(report: PartReport, listing: Listing) -> None:
    first = next((sample for sample in listing.samples if sample.depth is not None), None)
    if listing.read_depth is None or first is None:
        return
    try:
        if listing.read_camera is not None:
            listing.read_camera(first)
        depth = listing.read_depth(first)
    except StreamError as error:
        report.faults.append(str(error))
        return
    measured = depth[np.isfinite(depth) & (depth > 0)]
    if measured.size:
        report.depth_m = float(measured.min()), float(measured.max())
