"""``python -m online_uda.tune``: the method and the settings for a network, found before it is deployed."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from online_uda.errors import INTERRUPTED, OK, USER_ERRORS, UserError, tell
from streams.arguments import OneLineParser

if TYPE_CHECKING:
    from online_uda.tuning.session import Study

DEFAULT_METHODS = ("default", "dressed", "tent", "eta", "sar", "roid", "cotta_lite", "norm_ema")
_TARGET_FLAGS = ("--schedule", "--stream", "--target")
_EPILOG = """\
Streams are rendered from labelled source frames (the built-in town's validation streets, or --source DIR), under rain,
fog and nightfall. The search sees some weathers and orders, the final validation others; the target stream is never
seen, and there is no option to show it.

written to --out: recipe.yaml (run_stream.py --method takes it), tune.md, tune.json, sensitivity.png, sensitivity.json,
and tensorboard/ (a row of TensorBoard's HPARAMS page for every candidate)

examples:
  python -m online_uda.tune --minutes 30 --size 128x256 --out tuned
  python -m online_uda.tune --network my/segformer --source my/labelled_day --methods default tent roid
  python -m online_uda.tune --resume tuned --minutes 10

exit status: 0 done, 2 something to correct, 130 stopped with Ctrl-C: recipe.yaml is the best so far, --resume goes on.
"""


def _number(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            noun = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"expected a {noun} from {least:g} to {most:g}, got {text!r}")
        return value

    return parse


def parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    flags = OneLineParser(
        prog="python -m online_uda.tune", allow_abbrev=False,
        description="Searches methods and their settings on streams rendered from labelled source frames.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    flags.add_argument("--network", help="registered name or folder (default: segformer_b0_town)")
    flags.add_argument("--source", metavar="DIR", help="labelled folder with images/ and labels/ (default: the town)")
    flags.add_argument(
        "--classes", metavar="SET|FILE", help="class set of the labels (default: what the network names)"
    )
    flags.add_argument(
        "--methods", nargs="+", metavar="NAME|FILE", help=f"to search over (default: {' '.join(DEFAULT_METHODS)})"
    )
    flags.add_argument("--size", metavar="HxW", help="bring frames to this size (default: their own)")
    flags.add_argument("--frames", type=_number(int, 2, 10_000), metavar="N", help="frames of each visit (default: 14)")
    flags.add_argument("--seed", type=_number(int, 0, 2**20), metavar="N", help="of everything random (default: 0)")
    flags.add_argument(
        "--harm", type=_number(float, 0, 100), metavar="W", help="points lost for a point below frozen (default: 1)"
    )
    flags.add_argument(
        "--minutes", type=_number(float, 0.01, 1e5), default=30.0, metavar="M", help="time (default: 30)"
    )
    flags.add_argument(
        "--trials", type=_number(int, 1, 10**6), default=1000, metavar="N", help="candidates at most (default: 1000)"
    )
    flags.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    flags.add_argument("--threads", type=_number(int, 1, 1024), help="CPU threads (default: all cores but one)")
    flags.add_argument("--out", type=Path, metavar="DIR", help="folder of the study (default: runs/tune-TIME)")
    flags.add_argument("--resume", type=Path, metavar="DIR", help="go on with the study of this folder")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; a user's mistake is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    flags = parser()
    target = next((word for word in words if word.partition("=")[0] in _TARGET_FLAGS), None)
    if target is not None:
        flags.error(
            f"{target}: tune never sees the target stream; it renders streams of its own from labelled source frames "
            f"(--source DIR, or the built-in town)"
        )
    arguments = flags.parse_args(words)
    try:
        return _tune(arguments, words)
    except USER_ERRORS as error:
        return tell(error)
    except KeyboardInterrupt:
        print("stopped before there was anything to write", file=sys.stderr)
        return INTERRUPTED


def _tune(arguments: argparse.Namespace, words: list[str]) -> int:
    from online_uda.tuning.session import Effort, begin, reopen, tune

    effort = Effort(int(arguments.trials), arguments.minutes, arguments.device, arguments.threads)
    if arguments.resume is not None:
        _refuse_changes(arguments)
        folder = arguments.resume
        study = reopen(folder)
    else:
        study = _study(arguments)
        folder = arguments.out or Path("runs") / f"tune-{datetime.now():%Y%m%d-%H%M%S}"
        begin(folder, study)
    outcome, interrupted = tune(folder, study, effort, shlex.join(["python", "-m", "online_uda.tune", *words]))
    print(outcome.log() if outcome.tried else "stopped before a candidate had played to the end")
    print(f"recipe: {folder / 'recipe.yaml'}", file=sys.stderr)
    if interrupted:
        print(f"stopped; --resume {folder} goes on", file=sys.stderr)
    return INTERRUPTED if interrupted else OK


def _study(arguments: argparse.Namespace) -> Study:
    from online_uda.config import parse_size
    from online_uda.networks.catalogue import DEFAULT_NETWORK
    from online_uda.tuning.session import Study, check_methods, check_source
    from streams.schedule import MAX_SIDE, MIN_SIDE

    try:
        size = None if arguments.size is None else parse_size(arguments.size)
    except ValueError as error:
        raise UserError(f"--size: {error}") from None
    if size is not None and not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise UserError(f"--size {arguments.size}: height and width must be {MIN_SIDE} to {MAX_SIDE}")
    return Study(
        network=arguments.network or DEFAULT_NETWORK,
        source=check_source(arguments.source or "town"),
        classes=arguments.classes,
        methods=check_methods(tuple(arguments.methods or DEFAULT_METHODS)),
        size=size,
        frames=14 if arguments.frames is None else int(arguments.frames),
        seed=0 if arguments.seed is None else int(arguments.seed),
        harm=1.0 if arguments.harm is None else arguments.harm,
    )


def _refuse_changes(arguments: argparse.Namespace) -> None:
    fixed = ("network", "source", "classes", "methods", "size", "frames", "seed", "harm", "out")
    given = [f"--{name}" for name in fixed if getattr(arguments, name) is not None]
    if given:
        raise UserError(
            f"{', '.join(given)}: a study goes on as it began; leave out, or begin a new one without --resume"
        )


if __name__ == "__main__":
    raise SystemExit(main())
