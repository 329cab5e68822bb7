"""Predicted masks as PNG files, one a frame: train ids, ids of label files, or ids with the colours of the classes."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from online_uda.reports.panels import colour_table
from online_uda.reports.record import FrameRecord
from streams.classes import CITYSCAPES_IDS
from streams.frame import ClassSet

MaskIds = Literal["train", "label", "colour"]
_PARTIAL = ".partial.png"


def label_ids(classes: ClassSet) -> NDArray[np.uint8] | None:
    """``(256,)`` uint8: the id in label files of every train id; None where label files hold train ids themselves."""
    raw = CITYSCAPES_IDS.raw if classes.names == CITYSCAPES_IDS.names else classes.raw
    if not raw:
        return None
    table = np.full(256, 255, np.uint8)
    for train in set(raw) & set(range(len(classes))):
        table[train] = raw.index(train)
    return table


class MaskSink:
    """Writes ``00000042.png`` for frame 42, whole or not at all; a resumed run writes the frames it plays again anew.

    Args:
        folder: Made if missing.
        classes: Of the masks.
        ids: What the pixels are: ``train`` ids; ``label`` ids as in label files; ``colour``: train ids with a palette,
            which image viewers show in the colours of the classes.
    """

    name = "masks"

    def __init__(self, folder: Path, classes: ClassSet, ids: MaskIds = "train") -> None:
        self._folder = folder
        self._table = label_ids(classes) if ids == "label" else None
        self._palette = colour_table(classes.palette).tobytes() if ids == "colour" else None

    def __enter__(self) -> MaskSink:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / _PARTIAL).unlink(missing_ok=True)
        return self

    def write(self, record: FrameRecord) -> None:
        """Write the mask of a frame; a frame without one leaves no file."""
        if record.images is None:
            return
        ids = record.images.adapted
        image = Image.fromarray(ids if self._table is None else self._table[ids])
        if self._palette is not None:
            image.putpalette(self._palette)
        image.save(self._folder / _PARTIAL, compress_level=1)
        os.replace(self._folder / _PARTIAL, self._folder / f"{record.frame:08d}.png")

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing to add."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self._folder / _PARTIAL).unlink(missing_ok=True)
