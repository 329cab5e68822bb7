"""Pictures of the frames that say most about a run, kept in bounded number: where adapting helped and hurt most.

Without labels: where the networks agree least, and where the adapted one is least sure.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from online_uda.reports.panels import colour_table, tile
from online_uda.reports.record import FrameRecord
from streams.frame import ClassSet

INDEX = "pictures.json"
KINDS = ("worst", "best", "agreement", "confidence")
"""Lowest and highest gain over frozen; lowest agreement with frozen; lowest confidence."""
KEPT = 4
GAP_FRAMES = 10
"""Frames nearer to each other than this show the same thing: one of them is kept."""


@dataclass(slots=True)
class Kept:
    """A frame that is kept: what is said of it, and its tiles by name as encoded files."""

    kind: str
    key: float
    frame: int
    domain: str
    miou: float | None
    miou_frozen: float | None
    agreement: float | None
    confidence: float | None
    files: dict[str, str] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)


class ThumbnailSink:
    """Keeps the `KEPT` lowest frames of each kind, apart from one another, as files in a folder.

    Args:
        folder: Of the pictures; made when there are some.
        classes: For the colours.
        resume_frame: First frame that a resumed run will write; what was kept of earlier ones stays.
        width: Of a tile in pixels.
    """

    name = "pictures"

    def __init__(self, folder: Path, classes: ClassSet, resume_frame: int | None = None, width: int = 384) -> None:
        self._folder, self._width = folder, width
        self._palette = colour_table(classes.palette)
        self._kept: dict[str, list[Kept]] = {kind: [] for kind in KINDS}
        self._resume_frame = resume_frame

    def __enter__(self) -> ThumbnailSink:
        if self._resume_frame is not None and (self._folder / INDEX).is_file():
            for row in read_pictures(self._folder):
                if row["frame"] < self._resume_frame:
                    content = {name: (self._folder / file).read_bytes() for name, file in row["files"].items()}
                    self._kept[row["kind"]].append(Kept(**row, content=content))
        return self

    def write(self, record: FrameRecord) -> None:
        """Keep the frame if it says more than one of those kept."""
        if record.images is None or record.dropped:
            return
        keys: dict[str, float | None] = {"agreement": record.agreement, "confidence": record.confidence}
        if record.miou is not None and record.miou_frozen is not None:
            gain = record.miou - record.miou_frozen
            keys = {"worst": gain, "best": -gain}
        tiles: dict[str, bytes] | None = None
        for kind, key in keys.items():
            if key is None:
                continue
            place = self._place(self._kept[kind], key, record.frame)
            if place is None:
                continue
            tiles = self._tiles(record) if tiles is None else tiles
            entry = Kept(
                kind, key, record.frame, record.domain, record.miou, record.miou_frozen, record.agreement,
                record.confidence, content=tiles,
            )  # fmt: skip
            self._kept[kind] = sorted([*place, entry], key=lambda kept: kept.key)

    @staticmethod
    def _place(kept: list[Kept], key: float, frame: int) -> list[Kept] | None:
        """The entries beside which a frame would be kept; None where it says less than they do."""
        near = [entry for entry in kept if abs(entry.frame - frame) < GAP_FRAMES]
        if any(entry.key <= key for entry in near):
            return None
        far = [entry for entry in kept if entry not in near]
        if len(far) < KEPT:
            return far
        return far[:-1] if key < far[-1].key else None

    def _tiles(self, record: FrameRecord) -> dict[str, bytes]:
        images = record.images
        assert images is not None
        height, width = images.image.shape[:2]
        width, height = min(width, self._width), max(1, round(height * min(width, self._width) / width))
        tiles = {"image": _jpeg(tile(images.image, height, width, smooth=True))}
        for name, ids in (("truth", images.truth), ("frozen", images.frozen), ("adapted", images.adapted)):
            if ids is not None:
                small = tile(ids, height, width, smooth=False)
                tiles[name] = _palette_png(small, self._palette)
        return tiles

    def sync(self) -> None:
        """Puts what is kept on the disk, where a resumed run finds it."""
        kept = [entry for kind in KINDS for entry in self._kept[kind]]
        if not kept:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for entry in kept:
            entry.files = {}
            for name, content in entry.content.items():
                suffix = "jpg" if name == "image" else "png"
                entry.files[name] = f"{entry.frame:08d}-{name}.{suffix}"
                path = self._folder / entry.files[name]
                if not path.exists():
                    _write_whole(path, content)
            row = asdict(entry)
            row.pop("content")
            rows.append(row)
        _write_whole(self._folder / INDEX, (json.dumps(rows, indent=1) + "\n").encode())
        wanted = {INDEX, *(file for row in rows for file in row["files"].values())}
        for path in self._folder.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)

    def finish(self, summary: dict[str, Any]) -> None:
        """As `sync`."""
        self.sync()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def read_pictures(folder: Path) -> list[dict[str, Any]]:
    """What is said of the pictures in a folder; none where there is no index that can be read."""
    try:
        rows = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return [
            row
            for row in rows
            if row["kind"] in KINDS and all((folder / Path(file).name).is_file() for file in row["files"].values())
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _palette_png(ids: NDArray[np.uint8], table: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(ids)
    image.putpalette(table.tobytes())
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content)
    os.replace(temporary, path)
