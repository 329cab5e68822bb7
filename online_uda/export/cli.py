"""The export command's flags; torch is imported after they are read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from online_uda.errors import OK, USER_ERRORS, UserError, tell
from streams.arguments import OneLineParser

MOVABLE = ("none", "norm", "head", "all")
_EXAMPLE = """\
The file takes frames (1, 3, H, W) float32 RGB in [0, 1] and gives logits (1, C, H/4, W/4). Movable weights are inputs
with a default, under the names they have in torch: leave them out and the file answers as exported, give them and it
answers with yours.

example:
  python -m online_uda.export runs/cs2rain-default-20261121-080509 --out storm.onnx
  python -m online_uda.export segformer_b0_town --size 512x1024 --movable none --out town.onnx
"""


def parser() -> argparse.ArgumentParser:
    """Flags of the export command."""
    flags = OneLineParser(
        prog="python -m online_uda.export",
        description="Writes a network, or the network that a run has adapted, as ONNX, and checks it against torch.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("what", metavar="RUN|NETWORK", help="run folder, or what --network takes")
    flags.add_argument("--out", required=True, metavar="FILE", help="file to write, such as storm.onnx")
    flags.add_argument("--size", metavar="HxW", help="frames (default: the run's, or 256x512)")
    flags.add_argument(
        "--movable", choices=MOVABLE, default="norm", help="weights that a session may replace (default: %(default)s)"
    )
    flags.add_argument("--init", choices=("random",), help="draw the weights of a network that has none, to measure it")
    flags.add_argument("--classes", metavar="SET|FILE", help="classes to build a network for that has none of its own")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; a user's mistake is one line on stderr and status 2."""
    flags = parser().parse_args(arguments)
    try:
        size = _size(flags.size)
        out = _target(flags.out)
        from online_uda.export.command import export_file

        print(export_file(flags.what, out, size, flags.movable, flags.init, flags.classes))
    except USER_ERRORS as error:
        return tell(error)
    return OK


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None or min(int(match[1]), int(match[2])) < 1:
        raise UserError(f"--size: expected HEIGHTxWIDTH such as 256x512, got {text!r}")
    return int(match[1]), int(match[2])


def _target(text: str) -> Path:
    path = Path(text).expanduser()
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; give a file name such as {path / 'network.onnx'}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--out {path}: the folder {path.parent} does not exist; make it first")
    return path
