"""Several streams at once: every line of a list is a run of its own, with a process and weights of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from online_uda.errors import USER_ERRORS, UserError
from online_uda.live.address import parse_address
from streams.errors import StreamError
from streams.live.feed import parse_feed, read_list

COMPARISON = "compare.html"
_MAIN = "from online_uda.cli import main; raise SystemExit(main())"


def is_list(stream: str) -> bool:
    """Whether ``--stream`` names a list of streams."""
    try:
        return parse_feed(stream).kind == "list"
    except StreamError:
        return False  # reported where it is looked up


def play_list(options: Mapping[str, Any], overrides: Sequence[str], folder: Path) -> int:
    """Plays every stream of a list at the same time, until the last one has ended.

    A stream that fails leaves the others alone. The cores are shared out. Run folders stand in ``folder`` under the
    streams' names, as do what ``--save-masks`` names; ``--save-video`` and ``--serve`` get a name and a port each.

    Args:
        options: Flags of the command line by key; ``stream`` names the list.
        overrides: Its ``key=value`` texts.
        folder: Of all runs; made here.

    Returns:
        The exit status: 0 where every run ended well, 130 where one was stopped, else 2.

    Raises:
        UserError: The list is faulty, or the folder is taken.
    """
    try:
        feeds = read_list(parse_feed(str(options["stream"])))
    except StreamError as error:
        raise UserError(f"--stream: {error}") from None
    names = unique([feed.name for feed in feeds])
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    threads = options.get("threads") or max(1, ((os.cpu_count() or 2) - 1) // len(feeds))
    children = []
    for number, (feed, name) in enumerate(zip(feeds, names, strict=True)):
        own = {**options, **_own(options, name, number), "stream": feed.where, "out": folder / name, "threads": threads}
        children.append(_start(name, _words(own, overrides)))
    with _Forwarding(children):
        statuses = [child.wait() for child in children]
    for name, status in zip(names, statuses, strict=True):
        if status not in (0, 130):
            print(f"{name}: ended with exit status {status}", file=sys.stderr)
    _compare([folder / name for name in names], folder / COMPARISON)
    return next((status for status in (2, 130) if status in statuses), 0 if not any(statuses) else 2)


def unique(names: Sequence[str]) -> list[str]:
    """Names made different by a number behind those that come again.

    >>> unique(["cam", "cam", "rear"])
    ['cam', 'cam-2', 'rear']
    """
    found: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}-{number}"
        found.append(candidate)
    return found


def _own(options: Mapping[str, Any], name: str, number: int) -> dict[str, Any]:
    """What each stream must have for itself."""
    own: dict[str, Any] = {}
    if options.get("save_video"):
        video = Path(options["save_video"])
        own["save_video"] = video.with_name(f"{video.stem}-{name}{video.suffix}")
    if options.get("save_masks"):
        own["save_masks"] = Path(options["save_masks"]) / name
    if options.get("serve"):
        host, port = parse_address(str(options["serve"]))
        shown = f"[{host}]" if ":" in host else host
        own["serve"] = f"{shown}:{port + number if port else 0}"
    return own


def _words(options: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    words = []
    for key, value in options.items():
        flag = f"--{key.replace('_', '-')}"
        words += [flag] if value is True else [f"{flag}={value}"]
    return [*words, *overrides]


def _start(name: str, words: Sequence[str]) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _MAIN, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace",
    )  # fmt: skip
    for source, target in ((child.stdout, sys.stdout), (child.stderr, sys.stderr)):
        assert source is not None
        threading.Thread(target=_pass_on, args=(name, source, target), daemon=True).start()
    return child


def _pass_on(name: str, source: IO[str], target: IO[str]) -> None:
    for line in source:
        print(f"[{name}] {line}", end="", file=target, flush=True)


class _Forwarding:
    """While entered, Ctrl-C and SIGTERM go to the children, who end in order; this process waits for them."""

    def __init__(self, children: Sequence[subprocess.Popen[str]]) -> None:
        self._children = children
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._pass) for number in (signal.SIGINT, signal.SIGTERM)}

    def _pass(self, number: int, frame: FrameType | None) -> None:
        # A terminal sends Ctrl-C to the children itself; to them a second one would mean "at once".
        if number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty():
            return
        for child in self._children:
            if child.poll() is None:
                child.send_signal(number)

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def _compare(folders: Sequence[Path], out: Path) -> None:
    """A page of the runs that have a summary, where there are two or more."""
    finished = [folder for folder in folders if (folder / "summary.json").is_file()]
    if len(finished) < 2:
        return
    from online_uda.reports.html_report import write_comparison

    try:
        print(f"comparison: {write_comparison(finished, out)}", file=sys.stderr)
    except USER_ERRORS as error:
        print(f"warning: {error}", file=sys.stderr)
