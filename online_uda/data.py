"""``python -m online_uda.data``: ``check`` says what data is there and how to use it, ``cache`` keeps it decoded."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from online_uda.errors import INTERRUPTED, OK, USER_ERRORS, UserError, tell
from streams.arguments import OneLineParser
from streams.classes import CITYSCAPES_19, find_classes
from streams.datasets import DatasetSettings, DatasetSource, looks_like_spec, parse_spec, recognise
from streams.datasets.folder import PlainFolder
from streams.datasets.frame_cache import FrameCache
from streams.datasets.inspection import PartReport, inspect_part
from streams.datasets.registry import DATASETS
from streams.frame import ClassSet
from streams.sources.images import FrameFault

_OWN_SCHEDULE = {
    "cityscapes": "cs2rain", "weather_cityscapes": "cs2rain", "acdc": "acdc", "shift": "shift",
    "dark_zurich": "dark_zurich",
}  # fmt: skip
"""The shipped schedule that plays a data set."""

_EPILOG = """\
PATH is a folder in the layout of its authors, a list of files (.json, .yaml), or NAME=DIR with the keys of a schedule.
data sets: """


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; what stops the data from being used is one line on stderr."""
    flags = OneLineParser(
        prog="python -m online_uda.data", description="Looks at data sets.", epilog=_EPILOG + ", ".join(DATASETS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = flags.add_subparsers(dest="command", required=True, metavar="check|cache")
    check = commands.add_parser("check", help="what is there, what is missing, and how to use it")
    check.add_argument("path", metavar="PATH", help="folder, list of files, or NAME=DIR,key=value")
    check.add_argument("--classes", default=CITYSCAPES_19.name, metavar="SET", help="what labels become (%(default)s)")
    cache = commands.add_parser("cache", help="keep frames of one size decoded: faster runs for 3 to 7 bytes a pixel")
    cache.add_argument("path", metavar="NAME=DIR", help="what to keep, such as cityscapes=DIR,split=val")
    cache.add_argument("--size", required=True, metavar="HxW", help="size of the frames, such as 512x1024")
    arguments = flags.parse_args(argv)
    try:
        if arguments.command == "cache":
            _cache(arguments.path, arguments.size)
        else:
            _check(arguments.path, find_classes(arguments.classes))
    except USER_ERRORS as error:
        return tell(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def _check(text: str, classes: ClassSet) -> None:
    found = _found(text)
    faults: list[str] = []
    for settings, parts in found:
        print(f"{settings.TITLE} in {settings.root}")
        reports = [_inspect(part, classes) for part in parts]
        for report in reports:
            _print_part(report)
        faults += [fault for report in reports for fault in report.faults]
        _print_classes(reports, classes)
        for line in _commands(settings, reports, classes):
            print(line)
    if faults:
        more = f" (the first of {len(faults)})" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}")


def _cache(text: str, size: str) -> None:
    from streams.progress import Progress

    match = re.fullmatch(r"([0-9]{2,4})x([0-9]{2,4})", size)
    if match is None:
        raise UserError(f"--size: expected HEIGHTxWIDTH such as 512x1024, got {size!r}")
    listing = parse_spec(text).scan()
    source = DatasetSource(listing, CITYSCAPES_19, (int(match[1]), int(match[2])))
    cache = FrameCache(listing.root, source.size)
    made = 0
    with Progress(f"frames of {listing.what}", len(listing.samples), every=100) as progress:
        for done, sample in enumerate(listing.samples, 1):
            if cache.load(sample, depth=True) is None:
                try:
                    frame = source.decode(sample, depth=listing.has_depth)
                except FrameFault as fault:
                    progress.say(f"left out: {fault}")
                    continue
                if not cache.store(sample, frame):
                    raise UserError(f"{cache.folder}: cannot be written to; is the disk full?")
                made += 1
            progress.update(done)
    print(f"{made} of {len(listing.samples)} frames added to {cache.folder}; delete it to be rid of them")


def _found(text: str) -> list[tuple[DatasetSettings, tuple[DatasetSettings, ...]]]:
    if looks_like_spec(text):
        settings = parse_spec(text)
        chosen = settings.model_fields_set - set(settings.FOLDERS)
        return [(settings, (settings,) if chosen else settings.parts() or (settings,))]
    path = Path(text).expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    recognised = recognise(path.absolute())
    if not recognised:
        plain = PlainFolder(root=path.absolute())
        if (path / "images").is_dir() or plain.parts():
            return [(plain, (plain,))]
        raise UserError(
            f"{path}: in no layout that is known ({', '.join(DATASETS)}, or a folder with images/ and labels/); "
            f"'files: {{root: DIR, images: PATTERN, labels: PATTERN}}' in a schedule reads any tree"
        )
    return [(settings, settings.parts()) for settings in recognised]


def _inspect(part: DatasetSettings, classes: ClassSet) -> PartReport:
    from streams.progress import Progress

    bar: Progress | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or Progress(f"labels of {part.words() or part.NAME}", total, every=500)
        bar.update(done)

    try:
        return inspect_part(part, classes, progress)
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)


def _print_part(report: PartReport) -> None:
    listing = report.listing
    name = report.settings.words() or "all"
    if listing is None:
        print(f"  {name}: cannot be used: {report.faults[0]}")
        return
    cells = [_counted(len(listing.samples), "image"), _counted(len(listing.labelled), "label")]
    if listing.has_depth:
        cells.append(_counted(sum(sample.depth is not None for sample in listing.samples), "depth map"))
    cells.append(
        " and ".join(f"{size} ({count})" if len(report.sizes) > 1 else size for size, count in report.sizes[:3])
    )
    if len(report.sizes) > 3:
        cells[-1] += f" and {len(report.sizes) - 3} other sizes"
    if report.statistics is not None:
        cells.append(f"{100 * report.statistics.coverage:.1f} % of the pixels labelled")
    if report.depth_m is not None:
        cells.append("depth {:.1f} to {:.1f} m in the first".format(*report.depth_m))
    print(f"  {name}: {', '.join(cell for cell in cells if cell)}")
    for note in listing.notes:
        print(f"    note: {note}")
    for fault in report.faults[:3]:
        print(f"    fault: {fault}")
    if len(report.faults) > 3:
        print(f"    and {len(report.faults) - 3} faults more")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count or 'no'} {what}s"


def _print_classes(reports: Sequence[PartReport], classes: ClassSet) -> None:
    statistics = [report.statistics for report in reports if report.statistics is not None]
    if not statistics:
        return
    totals = sum(found.counts.sum(axis=0) for found in statistics)
    shares = totals / max(int(totals.sum()), 1)
    order = sorted(range(len(classes)), key=lambda index: -shares[index])
    there = [f"{classes.names[index]} {100 * shares[index]:.2g} %" for index in order if totals[index]]
    absent = [classes.names[index] for index in range(len(classes)) if not totals[index]]
    print(f"  classes ({classes.name}): {', '.join(there)}")
    if absent:
        print(f"  never labelled: {', '.join(absent)}")


def _commands(settings: DatasetSettings, reports: Sequence[PartReport], classes: ClassSet) -> list[str]:
    """How to use what was found: as a stream, as source images, for training."""
    usable = [report for report in reports if report.listing is not None and not report.faults]
    if not usable:
        return []
    if isinstance(settings, PlainFolder):
        return _folder_commands(settings, usable[0], classes)
    place = shlex.quote(f"{settings.NAME}={settings.root}")
    other = "" if classes.name == CITYSCAPES_19.name else f" --classes {classes.name}"
    lines = []
    schedule = _OWN_SCHEDULE.get(settings.NAME)
    if settings.NAME == "weather_cityscapes":
        lines.append(f"  play:  python run_stream.py --schedule {schedule} --data cityscapes=CITYSCAPES --data {place}")
    elif schedule is not None:
        lines.append(f"  play:  python run_stream.py --schedule {schedule} --data {place}")
    else:
        lines.append(f"  play:  python run_stream.py --schedule quick --data {place}")
    if schedule is None and any(len(report.sizes) > 1 for report in usable):
        lines[-1] += " --size 480x640"
    lines.append(f"  in a schedule:  {{domain: NAME, {settings.NAME}: {{{_yaml_keys(usable)}}}}}")
    if any(report.listing is not None and report.listing.labelled for report in usable):
        lines.append(f"  replay from it:  --source {place}")
        lines.append(f"  train on it:  python -m online_uda.training --data {place}{other} --size 256x512 --out DIR")
    return lines


def _yaml_keys(usable: Sequence[PartReport]) -> str:
    """Keys of a visit that plays a labelled part, where there is one."""
    labelled = [report for report in usable if report.listing is not None and report.listing.labelled]
    settings = (labelled or usable)[-1].settings
    folder = "file" if settings.root is not None and settings.root.is_file() else "root"
    keys = [f"{folder}: {settings.root}"]
    if "labels" in settings.FOLDERS and not labelled:
        keys.append("labels: CITYSCAPES")
    return ", ".join([*keys, *filter(None, settings.words().replace("=", ": ").split(","))])


def _folder_commands(settings: PlainFolder, report: PartReport, classes: ClassSet) -> list[str]:
    place = shlex.quote(str(settings.root))
    other = "" if classes.name == CITYSCAPES_19.name else f" --classes {classes.name}"
    lines = [
        f"  play:  python run_stream.py --stream {place}{other}",
        f"  in a schedule:  {{domain: NAME, folder: {settings.root}}}",
    ]
    if report.listing is not None and report.listing.labelled:
        lines.append(f"  replay from it:  --source {place}")
        lines.append(f"  train on it:  python -m online_uda.training --data {place}{other} --size 256x512 --out DIR")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
