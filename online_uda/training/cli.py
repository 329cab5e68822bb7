"""The training command's flags; torch is imported after they are read."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from online_uda.errors import INTERRUPTED, OK, USER_ERRORS, UserError, tell
from streams.arguments import OneLineParser

_EXAMPLE = """example:
  python -m online_uda.training --data town --out runs/town_b0 --iterations 4000
  python -m online_uda.training --data town --out runs/town_b0 --iterations 8000 --resume
"""


def frame_size(text: str) -> tuple[int, int]:
    """``256x512`` as (height, width)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or min(int(match[1]), int(match[2])) < 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH with both at least 64, such as 256x512")
    return int(match[1]), int(match[2])


def _at_least(smallest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = smallest - 1
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {smallest}")
        return value

    return parse


def parser() -> argparse.ArgumentParser:
    """Flags of the training command."""
    flags = OneLineParser(
        prog="python -m online_uda.training",
        description="Trains a network on labelled source images, then its light head with all else frozen.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument(
        "--data", required=True, help="town, a folder with images/ and labels/, or NAME=DIR of a data set"
    )
    flags.add_argument("--classes", help="class set of a folder's labels (default: cityscapes19)")
    flags.add_argument(
        "--network", default="segformer_b0", help="architecture, or module:function, to train (default: %(default)s)"
    )
    flags.add_argument("--start", help="network to start from, as run_stream.py --network takes it")
    flags.add_argument("--size", type=frame_size, default=(256, 512), help="HEIGHTxWIDTH of images (default: 256x512)")
    flags.add_argument("--out", type=Path, required=True, help="folder for the training state and the network")
    flags.add_argument(
        "--iterations", type=_at_least(0), default=4000, help="main training steps (default: %(default)s)"
    )
    flags.add_argument("--light-iterations", type=_at_least(1), default=400, help="light head steps (%(default)s)")
    flags.add_argument("--learning-rate", type=float, default=1e-3, help="peak rate of AdamW (default: %(default)s)")
    flags.add_argument("--drop-path", type=float, help="largest stochastic-depth rate (0.0, or the description's)")
    flags.add_argument("--rare-share", type=float, default=0.5, help="draws that ask for a rare class (%(default)s)")
    flags.add_argument("--images", type=_at_least(1), default=2000, help="training images in memory (%(default)s)")
    flags.add_argument("--val-images", type=_at_least(1), default=200, help="unseen images to score on (%(default)s)")
    flags.add_argument("--seed", type=_at_least(0), default=0, help="of weights, images and augmentation")
    flags.add_argument("--resume", action="store_true", help="go on from OUT, also to a larger --iterations")
    flags.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    flags.add_argument(
        "--processes", type=_at_least(1), default=1, help="CPU processes that share a batch (%(default)s)"
    )
    flags.add_argument("--threads", type=_at_least(1), help="CPU threads a process (default: all cores, shared)")
    flags.add_argument("--check-every", type=_at_least(1), default=600, help="steps between scores on the way")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; a user's mistake is one line on stderr and status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    flags = parser().parse_args(words)
    from online_uda.training.session import run_session

    try:
        if not 0.0 <= flags.rare_share <= 1.0:
            raise UserError(f"--rare-share {flags.rare_share} is not between 0 and 1")
        if flags.drop_path is not None and not 0.0 <= flags.drop_path < 1.0:
            raise UserError(f"--drop-path {flags.drop_path} is not between 0 and 1")
        if not 0.0 < flags.learning_rate < 1.0:
            raise UserError(f"--learning-rate {flags.learning_rate} is not between 0 and 1")
        run_session(flags, "python -m online_uda.training " + " ".join(words))
    except USER_ERRORS as error:
        return tell(error)
    except KeyboardInterrupt:
        print("stopped; --resume continues from the last saved state", file=sys.stderr)
        return INTERRUPTED
    return OK
