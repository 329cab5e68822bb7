"""TensorBoard: scores per domain, signal and detections, losses, latency, and panels where something happened.

Tags (step = frame index), a fixed schema:
    ``<domain>/miou``, ``<domain>/miou_frozen``, ``<domain>/gain``: score of the visit so far, percent and points
    ``<domain>/frame_miou``, ``<domain>/frame_miou_frozen``: score of one frame, percent
    ``signal/value``, ``signal/detected``, ``signal/boundary``, ``signal/agreement``
    ``update/updated``, ``update/lr``, ``loss/<name>``, ``latency_ms/predict|adapt|frame``
    ``<domain>/confidence``: PR curve of a visit: a pixel that is right is a positive, its probability the score
    ``panels/<visit>_<domain>/start|end``, ``panels/detected``: image, truth, frozen, adapted
    ``summary``: the final table as text
    ``hmean``, ``gain``, ``worst_visit`` ... of ``hparams/``: the run on the HPARAMS page (`online_uda.reports.hparams`)

A long run closes an event file when it is full and begins another; the oldest are removed when there are too many.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from online_uda.evaluation.sureness import BINS, Counts, curve
from online_uda.reports.hparams import Setting, metrics_of, write_session
from online_uda.reports.panels import compose_panel
from online_uda.reports.record import FrameRecord
from online_uda.reports.table import summary_table
from streams.frame import ClassSet

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


PART_BYTES = 32 * 2**20
KEPT_PARTS = 7
_LOOK_FRAMES = 64
"""Frames between two looks at the size of the event file."""


def domain_tag(domain: str) -> str:
    """Name of a domain as the first part of a tag: slashes would open a new group."""
    return domain.replace("/", "_")


def custom_layout(domains: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """Layout of the Custom Scalars page: adapted against frozen for every domain first, then the rest.

    Returns:
        Category to chart to ``["Multiline", [tag regex, ...]]`` as `SummaryWriter.add_custom_scalars` takes it.
    """
    tags = [domain_tag(domain) for domain in domains]
    return {
        "Adapted against frozen": {
            tag: ["Multiline", [rf"^{re.escape(tag)}/miou$", rf"^{re.escape(tag)}/miou_frozen$"]] for tag in tags
        },
        "Signal and detections": {
            "domain-shift signal": ["Multiline", [r"^signal/value$", r"^signal/detected$", r"^signal/boundary$"]],
            "agreement with frozen": ["Multiline", [r"^signal/agreement$"]],
            "updates": ["Multiline", [r"^update/updated$"]],
        },
        "Losses": {"losses": ["Multiline", [r"^loss/.*"]], "learning rate": ["Multiline", [r"^update/lr$"]]},
        "Latency": {"latency in ms": ["Multiline", [r"^latency_ms/.*"]]},
    }


class TensorBoardSink:
    """Writes TensorBoard event files.

    Args:
        log_dir: Folder of the event files.
        classes: Label space, for the colours of the panels.
        domains: Domains known beforehand; others join the layout when the run ends.
        purge_step: First frame that a resumed run writes again; TensorBoard hides what was written from there on.
        max_panels: Most panels a run writes.
        tile_width: Width of one of a panel's four tiles, in pixels.
        part_bytes: Size from which an event file is closed and another one begun.
        kept_parts: Closed event files to keep.
        settings: What the HPARAMS page compares the run by; None leaves it out there.
    """

    name = "tensorboard"

    def __init__(
        self,
        log_dir: Path,
        classes: ClassSet,
        domains: Iterable[str] = (),
        purge_step: int | None = None,
        max_panels: int = 48,
        tile_width: int = 320,
        part_bytes: int = PART_BYTES,
        kept_parts: int = KEPT_PARTS,
        settings: Mapping[str, Setting] | None = None,
    ) -> None:
        self._settings = settings
        self._log_dir = Path(log_dir)
        self._classes = classes
        self._domains = list(dict.fromkeys(domains))
        self._purge_step = purge_step
        self._panels_left = max_panels
        self._tile_width = tile_width
        self._part_bytes, self._kept_parts = part_bytes, kept_parts
        self._frames = 0
        self._last: FrameRecord | None = None
        self._sureness: Counts | None = None
        self._drawn: set[int] = set()
        self._latest_domain: str | None = None
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> TensorBoardSink:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._open(self._purge_step)
        return self

    def _open(self, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._log_dir), purge_step=purge_step, flush_secs=10)
        if self._domains:
            self._writer.add_custom_scalars(custom_layout(self._domains))

    def _start_part_if_full(self) -> None:
        self._frames += 1
        if self._frames % _LOOK_FRAMES or _size(event_files(self._log_dir)[-1:]) < self._part_bytes:
            return
        self._opened().close()
        for old in event_files(self._log_dir)[: -self._kept_parts or None]:
            old.unlink(missing_ok=True)
        self._open()

    def write(self, record: FrameRecord) -> None:
        """Write the frame's scalars, and a panel where a visit starts or ends or a change was announced."""
        writer, step, domain = self._opened(), record.frame, domain_tag(record.domain)
        gain = None
        if record.visit_miou is not None and record.visit_miou_frozen is not None:
            gain = record.visit_miou - record.visit_miou_frozen
        changed = self._latest_domain is not None and record.domain != self._latest_domain
        scalars: dict[str, float | None] = {
            f"{domain}/miou": record.visit_miou,
            f"{domain}/miou_frozen": record.visit_miou_frozen,
            f"{domain}/gain": gain,
            f"{domain}/frame_miou": record.miou,
            f"{domain}/frame_miou_frozen": record.miou_frozen,
            "signal/value": record.signal,
            "signal/detected": float(record.detected),
            "signal/boundary": float(changed),
            "signal/agreement": record.agreement,
            "update/updated": float(record.updated),
            "update/lr": record.lr,
            "latency_ms/predict": record.predict_ms,
            "latency_ms/adapt": record.adapt_ms,
            "latency_ms/frame": record.frame_ms,
            **{f"loss/{name}": value for name, value in record.losses.items()},
        }
        for tag, value in scalars.items():
            if value is not None:
                writer.add_scalar(tag, value, step)
        self._latest_domain = record.domain
        if record.domain not in self._domains:
            self._domains.append(record.domain)
        if record.images is not None:
            self._draw_events(record)
        self._start_part_if_full()

    def _draw_events(self, record: FrameRecord) -> None:
        started = self._last is None or record.visit != self._last.visit
        if started:
            self._end_visit()
            self._draw(record, f"panels/{_visit_tag(record)}/start")
        if record.detected:
            self._draw(record, "panels/detected")
        self._last = record
        if record.images is not None and record.images.sureness is not None:
            seen = record.images.sureness
            self._sureness = seen if self._sureness is None else self._sureness + seen

    def _end_visit(self) -> None:
        """The last panel of a visit, and its curve."""
        if self._last is None:
            return
        self._draw(self._last, f"panels/{_visit_tag(self._last)}/end")
        if self._sureness is not None:
            tag = f"{domain_tag(self._last.domain)}/confidence"
            right, wrong, left_wrong, left_right, precision, recall = curve(self._sureness)
            self._opened().add_pr_curve_raw(
                tag, right, wrong, left_wrong, left_right, precision, recall, self._last.frame, num_thresholds=BINS
            )
        self._sureness = None

    def _draw(self, record: FrameRecord, tag: str) -> None:
        if self._panels_left <= 0 or record.frame in self._drawn:
            return
        self._panels_left -= 1
        self._drawn.add(record.frame)
        panel = compose_panel(record, self._classes.palette, self._tile_width)
        self._opened().add_image(tag, panel, record.frame, dataformats="HWC")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the last visit's end, the layout of every domain seen, the final table, and the row of HPARAMS."""
        writer = self._opened()
        self._end_visit()
        writer.add_custom_scalars(custom_layout(self._domains))
        text = "\n".join("    " + line for line in summary_table(summary).splitlines())
        writer.add_text("summary", text, int(summary.get("frames") or 0))
        writer.flush()
        if self._settings is not None:
            write_session(self._log_dir / "hparams", self._settings, metrics_of(summary))

    def _opened(self) -> SummaryWriter:
        if self._writer is None:
            raise ValueError("the TensorBoard report is not open")
        return self._writer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()


def event_files(folder: Path) -> list[Path]:
    """Event files of a folder, oldest first: their names begin with the second and end with a number in the process."""
    files = [file for file in folder.iterdir() if file.name.startswith("events.out.tfevents.")]
    return sorted(files, key=lambda file: (file.name.split(".")[3], int(file.name.rpartition(".")[2])))


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _visit_tag(record: FrameRecord) -> str:
    return f"{record.visit:02d}_{domain_tag(record.domain)}"
