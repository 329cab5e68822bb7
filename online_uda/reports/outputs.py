"""The reports that a user asks for by flag: checked before anything heavy starts, made when the run does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from online_uda.config import Faults, RunPlan
from online_uda.errors import UserError
from online_uda.live.address import check_address
from online_uda.reports.masks import MaskSink, label_ids
from online_uda.reports.sinks import Sink
from streams.frame import ClassSet
from streams.live.feed import parse_feed

if TYPE_CHECKING:
    from online_uda.runtime.controls import Controls


def check_outputs(plan: RunPlan, *, resumed: bool) -> None:
    """Looks, without touching the disk, whether everything asked for can be written.

    Raises:
        ConfigError: A line for everything that cannot.
    """
    run, faults = plan.run, Faults()
    with faults.collecting():
        if run.save_video is not None:
            _check_video(Path(run.save_video), resumed)
    with faults.collecting():
        if run.save_masks is not None:
            _check_masks(Path(run.save_masks), resumed)
        if run.mask_ids == "label" and label_ids(plan.schedule.class_set) is None:
            raise UserError(
                f"run.mask_ids=label: label files of {plan.schedule.class_set.name} hold train ids; take train"
            )
    with faults.collecting():
        if run.show:
            from online_uda.reports.window import check_display

            check_display()
    with faults.collecting():
        if run.serve is not None:
            check_address(run.serve)
    faults.raise_any()


def _check_video(path: Path, resumed: bool) -> None:
    if path.suffix.lower() != ".mp4":
        raise UserError(f"--save-video: {path}: videos are written as .mp4; name the file so")
    if not path.parent.is_dir():
        raise UserError(f"--save-video: {path.parent}: no such folder; make it first")
    if path.exists() and not resumed:
        raise UserError(f"--save-video: {path} exists; remove it or choose another name")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"--save-video: {path.parent} cannot be written; choose another folder")


def _check_masks(folder: Path, resumed: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--save-masks: {folder} is a file; give a folder")
    if folder.is_dir() and not resumed and any(folder.iterdir()):
        raise UserError(f"--save-masks: {folder} is not empty; choose another folder")
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--save-masks: {folder} cannot be made; choose another folder")


def output_sinks(
    plan: RunPlan, folder: Path, classes: ClassSet, resume_frame: int | None, controls: Controls | None = None
) -> list[Sink]:
    """The sinks of what is asked for, none of them open.

    Args:
        plan: Of the run.
        folder: Of the run.
        classes: Of the stream.
        resume_frame: First frame that a resumed run will play; None for a new run.
        controls: Takes what the buttons of the live page ask for; None without one.
    """
    run = plan.run
    sinks: list[Sink] = []
    if run.save_video is not None:
        from online_uda.reports.video import VideoSink

        sinks.append(VideoSink(Path(run.save_video), classes, resume_frame, _video_file(plan)))
    if run.save_masks is not None:
        sinks.append(MaskSink(Path(run.save_masks), classes, run.mask_ids))
    if run.show:
        from online_uda.reports.window import WindowSink

        sinks.append(WindowSink(classes))
    if run.serve is not None and controls is not None:
        from online_uda.live.server import LiveSink

        sinks.append(LiveSink(run.serve, classes, controls, f"{plan.schedule.name} · {plan.method_name}"))
    if run.report:
        from online_uda.reports.html_report import PICTURES, HtmlSink
        from online_uda.reports.thumbnails import ThumbnailSink

        sinks += [ThumbnailSink(folder / PICTURES, classes, resume_frame), HtmlSink(folder)]
    return sinks


def _video_file(plan: RunPlan) -> Path | None:
    """The file that the run plays, if it plays one video."""
    stream = plan.schedule.visits[0].stream
    if stream is None:
        return None
    feed = parse_feed(stream)
    return Path(feed.where) if feed.kind == "file" else None
