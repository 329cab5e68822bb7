"""``python -m online_uda.report RUN`` writes a run as one HTML file; ``compare RUN RUN... --out FILE`` several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from online_uda.errors import OK, USER_ERRORS, UserError, tell
from streams.arguments import OneLineParser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; a user's mistake is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        print(_compare(words[1:]) if words[:1] == ["compare"] else _report(words))
    except USER_ERRORS as error:
        return tell(error)
    return OK


def _report(words: list[str]) -> Path:
    flags = OneLineParser(
        prog="python -m online_uda.report", description="Writes report.html into the folder of a run.",
        epilog="compare RUN RUN... --out FILE sets runs beside each other",
    )  # fmt: skip
    flags.add_argument("run", type=Path, metavar="RUN", help="folder of a run that has ended")
    folder = flags.parse_args(words).run
    from online_uda.reports.html_report import write_report

    try:
        return write_report(folder)
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written: {error.strerror}") from None


def _compare(words: list[str]) -> Path:
    flags = OneLineParser(
        prog="python -m online_uda.report compare", description="Writes one page that sets runs beside each other."
    )
    flags.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs that have ended")
    flags.add_argument("--out", type=Path, default=Path("compare.html"), metavar="FILE", help="default: compare.html")
    arguments = flags.parse_args(words)
    if len(arguments.runs) < 2:
        raise UserError("compare: give two runs or more")
    if not arguments.out.absolute().parent.is_dir():
        raise UserError(f"--out: {arguments.out.absolute().parent}: no such folder; make it first")
    from online_uda.reports.html_report import write_comparison

    return write_comparison(arguments.runs, arguments.out)


if __name__ == "__main__":
    raise SystemExit(main())
