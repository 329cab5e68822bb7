"""SYNTHIA-RAND-CITYSCAPES (Ros et al. 2016): 9 400 rendered frames with Cityscapes-like classes and depth.

Layout: ``RAND_CITYSCAPES/{RGB,GT/LABELS,Depth/Depth}/0000000.png``. Label files are PNG of 16 bits a channel; the
first (red) channel is the class id, the second an instance. ``synthia_mapped_to_cityscapes/`` of some copies is not
needed. Depth files are read as 16-bit centimetres, the unit that the data's page gives; this was not checked on real
data.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from streams.classes import SYNTHIA_16
from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.depth import depth_file
from streams.datasets.labels import LabelFormat, read_deep
from streams.datasets.trees import content, first_folder, keyed, lone_labels
from streams.errors import StreamError

_CM_PER_M = 100.0
_NO_SURFACE = 65535


class Synthia(DatasetSettings):
    """SYNTHIA-RAND-CITYSCAPES, all frames."""

    NAME: ClassVar[str] = "synthia"
    TITLE: ClassVar[str] = "SYNTHIA"

    def scan(self) -> Listing:
        folder = self._folder(self.base)
        if folder is None:
            raise StreamError(
                f"{self.base}: no RGB/ with GT/LABELS/ in it, so this is not SYNTHIA; {content(self.base)}"
            )
        images, labels = keyed(folder / "RGB"), keyed(folder / "GT" / "LABELS", ".png")
        depths = keyed(first_folder(folder, "Depth/Depth", "Depth"), ".png")
        if not images:
            raise StreamError(f"{folder / 'RGB'}: no images in it")
        samples = tuple(Sample(name, image, labels.get(name), depths.get(name)) for name, image in images.items())
        form = LabelFormat(SYNTHIA_16, first_channel=True, deep=True) if labels else None
        return Listing(
            self.NAME, self.base, samples, form, read_depth if depths else None, notes=lone_labels(images, labels)
        )

    @staticmethod
    def _folder(root: Path) -> Path | None:
        places = (root, root / "RAND_CITYSCAPES")
        return next((place for place in places if (place / "RGB").is_dir() and (place / "GT").is_dir()), None)

    def parts(self) -> tuple[Self, ...]:
        return (self,) if self.root is not None and self._folder(self.root) is not None else ()


def read_depth(sample: Sample) -> NDArray[np.float32]:
    """Metres along the optical axis; 0 where there is no surface."""
    values = read_deep(depth_file(sample))
    plane = (values[..., 0] if values.ndim == 3 else values).astype(np.float64)
    return np.where(plane >= _NO_SURFACE, 0.0, plane / _CM_PER_M).astype(np.float32)
