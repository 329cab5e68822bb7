"""The command line. Nothing heavy is imported before the flags are read and every file has been checked."""

from __future__ import annotations

import argparse
import difflib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from online_uda.errors import INTERRUPTED, OK, USER_ERRORS, UserError, tell
from streams.arguments import OneLineParser

_EPILOG = """\
overrides:
  key=value                 a key of the method's YAML, such as anchor.pull=0.05 or optimizer.learning_rate=1e-3
  schedule.key=value        a key of the schedule's YAML, such as schedule.fps=5 or schedule.visits.0.frames=20
  run.key=value             any flag above by its name, and these: run.precision=auto|fp32|bf16,
                            run.snapshot_every=FRAMES, run.tensorboard=false, run.report=false,
                            run.stream_timeout=S (silence after which a camera counts as lost),
                            run.workers=N (processes that make frames ahead; 0: a thread),
                            run.beside=true|false (the frozen network in a thread of its own),
                            run.constant_speed=ETA (the protocol of Alfarra et al.),
                            run.inference.mode=slide|whole, .tile=512 or HxW, .overlap=0.33, .scales=[0.5, 1, 2],
                            .flip=true (answers averaged over tiles, scales and mirror images)

other commands:
  python -m online_uda.data check PATH                     what data is there, what is missing, how to use it
  python -m online_uda.report RUN, report compare RUN RUN  the page of a run again, or of several
  python -m online_uda.save RUN, export RUN                what a run has learned, as a network folder or as ONNX
  python -m online_uda.tune                                method and settings for a network, before it is deployed
  python -m online_uda.training                            a source network
  python -m streams.weather preview IMAGE --event NAME     what a weather looks like on a picture

examples:
  python run_stream.py                                     a storm in the built-in town, default method
  python run_stream.py --schedule quick --method tent anchor.pull=0
  python run_stream.py --schedule my/dusk.yaml --network my/segformer --source my/labelled_day
  python run_stream.py --resume runs/cs2rain-default-20261121-080509

exit status: 0 done, 2 something to correct (one line each on stderr), 130 stopped with Ctrl-C: the frame in hand is
finished, table and summary.json stand, and --resume continues; a second Ctrl-C stops at once. SIGTERM ends a run as the
first Ctrl-C does, with exit status 0.
"""

_RUN_FLAGS = (
    "schedule",
    "stream",
    "save_video",
    "save_masks",
    "serve",
    "method",
    "network",
    "init",
    "init_head",
    "classes",
    "data",
    "source",
    "frames",
    "size",
    "seed",
    "device",
    "threads",
    "backend",
    "out",
    "fps",
    "budget_ms",
    "learn",
    "clock",
)


def parser() -> argparse.ArgumentParser:
    """The flags of ``run_stream.py``. Values stay text: they are checked together with the files."""
    flags = OneLineParser(
        prog="run_stream.py",
        usage="run_stream.py [options] [key=value ...]",
        description="Replays a schedule of domains through a segmentation network that keeps learning, beside a frozen "
        "copy of it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument("--schedule", metavar="NAME|FILE", help="what to play (default: cs2rain)")
    flags.add_argument(
        "--stream",
        metavar="WHAT",
        help="play this instead: a camera (0), rtsp://..., a video, a folder, 'GLOB*.png', a .txt of these",
    )
    flags.add_argument("--method", metavar="NAME|FILE", help="how to learn (default: default)")
    flags.add_argument("--network", metavar="NAME|DIR", help="source network (default: segformer_b0_town)")
    flags.add_argument("--init", metavar="HOW", help="weights of an untrained network: random, or pretrained by timm")
    flags.add_argument("--init-head", metavar="HOW", help="random: the head of the network is meant to be untrained")
    flags.add_argument(
        "--classes", metavar="SET|FILE", help="what the network was trained on, if not the stream's classes"
    )
    flags.add_argument("--scope", metavar="WHAT", help="what learns: norm, bias, head, all, adapters, or PATTERNS")
    flags.add_argument("--freeze", metavar="PATTERNS", help="what never learns, such as stages.0,head.classifier")
    flags.add_argument(
        "--data",
        metavar="NAME=DIR",
        action="append",
        help="where a data set lies, such as cityscapes=DIR; in cs2rain and the like it takes the town's place",
    )
    flags.add_argument(
        "--source", metavar="DIR", help="labelled source images for replay, or NAME=DIR (default: the town's)"
    )
    flags.add_argument("--frames", metavar="N", help="at most N frames of each visit")
    flags.add_argument("--size", metavar="HxW", help="bring frames to this size, such as 256x512")
    flags.add_argument("--seed", metavar="N", help="of everything random (default: 0)")
    flags.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: auto)")
    flags.add_argument(
        "--backend", metavar="NAME", help="what predicts: torch, compile, onnxruntime or auto (default: torch)"
    )
    flags.add_argument("--threads", metavar="N", help="CPU threads of the network (default: all cores but one)")
    flags.add_argument("--fps", metavar="F", help="play (or take of a camera) F frames/s and do not wait for learning")
    flags.add_argument("--budget-ms", metavar="B", help="a mask is due B ms after its frame (default: 1000 / F)")
    flags.add_argument("--learn", metavar="HOW", help="with --fps: interleaved (default), async or sync")
    flags.add_argument(
        "--clock", metavar="real|FILE", help="with --fps: time from a file of costs, such as RUN/costs.json"
    )
    flags.add_argument("--save-video", metavar="FILE.mp4", help="write the overlay: frozen and adapted side by side")
    flags.add_argument("--save-masks", metavar="DIR", help="write the masks as PNG (run.mask_ids=train|label|colour)")
    flags.add_argument("--serve", metavar="PORT", help="live page with curves and buttons (HOST:PORT: not only here)")
    flags.add_argument("--show", action="store_true", help="show the overlay in a window")
    flags.add_argument("--out", metavar="DIR", help="run folder (default: runs/SCHEDULE-METHOD-TIME)")
    flags.add_argument("--resume", metavar="DIR", help="continue the run of this folder")
    flags.add_argument("--list", choices=("schedules", "methods", "networks"), help="show what can be named, and stop")
    flags.add_argument("overrides", nargs="*", metavar="key=value", help=argparse.SUPPRESS)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; a user's mistake is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["data"]:
        from online_uda.data import main as look_at_data

        return look_at_data(words[1:])
    flags = parser()
    arguments, rest = flags.parse_known_args(words)
    foreign = [word for word in words if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word)]
    if foreign:  # bytes of a file's name that are no UTF-8: neither YAML nor JSON could hold them
        flags.error(f"{foreign[0]!a} is not UTF-8; rename the file, or set a locale such as C.UTF-8")
    strange = [word for word in rest if word.startswith("-")]
    if strange:
        flags.error("; ".join(_unknown_option(word, flags) for word in strange))
    # Flags and overrides may be mixed in any order; argparse takes positionals from one place only.
    overrides = [word for word in words if word in {*arguments.overrides, *rest}]
    try:
        if arguments.list:
            _print_list(arguments.list)
            return OK
        options = {key: value for key in _RUN_FLAGS if (value := getattr(arguments, key)) is not None}
        if arguments.show:
            options["show"] = True
        scope = _scope_overrides(arguments.scope, arguments.freeze)
        return _run(options, [*scope, *overrides], arguments.resume, words, show_scope=bool(scope))
    except USER_ERRORS as error:
        return tell(error)
    except KeyboardInterrupt:
        print("stopped at once; --resume continues from the last snapshot", file=sys.stderr)
        return INTERRUPTED


def _unknown_option(word: str, flags: argparse.ArgumentParser) -> str:
    known = [option for action in flags._actions for option in action.option_strings]
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    return f"unknown option {word!r}" + (f" (did you mean {near[0]}?)" if near else "")


def _scope_overrides(scope: str | None, freeze: str | None) -> list[str]:
    """``--scope`` and ``--freeze`` as keys of the method."""
    overrides = []
    if scope is not None:
        role = scope in ("none", "norm", "bias", "head", "all", "suffix", "adapters", "hybrid")
        overrides += [f"scope.parameters={scope if role else 'names'}"]
        overrides += [] if role else [f"scope.names={_patterns(scope)}"]
    return overrides if freeze is None else [*overrides, f"scope.freeze={_patterns(freeze)}"]


def _patterns(text: str) -> str:
    parts = [part.strip().replace("'", "''") for part in text.split(",") if part.strip()]
    return "[" + ", ".join(f"'{part}'" for part in parts) + "]"


def _print_list(what: str) -> None:
    if what == "networks":
        from online_uda.networks.catalogue import NETWORK_DESCRIPTIONS, NETWORK_FORMS
        from online_uda.networks.spec import described_networks, read_description

        described = [(name, read_description(name)[0].description) for name in described_networks()]
        rows = [*NETWORK_DESCRIPTIONS.items(), *described, *NETWORK_FORMS.items()]
    elif what == "methods":
        from online_uda.config import list_methods

        rows = list_methods()
    else:
        from streams.schedule import list_schedules

        rows = list_schedules()
    width = max((len(name) for name, _ in rows), default=0)
    for name, description in rows:
        print(f"{name:<{width}}  {description}")


def _run(
    options: dict[str, Any], overrides: list[str], resumed: str | None, words: list[str], *, show_scope: bool
) -> int:
    from online_uda.fleet import is_list, play_list
    from online_uda.inputs import open_inputs
    from online_uda.reports.run_folder import RunFolder, default_folder
    from online_uda.resolve import resolve, resume_plan

    if resumed is not None:
        if "out" in options:
            raise UserError("--out and --resume exclude each other; a resumed run writes where it did")
        folder = RunFolder.reopen(Path(resumed)).path
        inputs = open_inputs(resume_plan(folder / "config.yaml", options, overrides))
    else:
        if "stream" in options and "schedule" in options:
            raise UserError("--stream and --schedule exclude each other; a run plays one of them")
        if is_list(str(options.get("stream", ""))):
            out = (
                Path(options["out"])
                if "out" in options
                else default_folder("streams", options.get("method", "default"))
            )
            return play_list({key: value for key, value in options.items() if key != "out"}, overrides, out)
        plan = resolve(options, overrides)
        folder = Path(plan.run.out) if plan.run.out else default_folder(plan.schedule.name, plan.method_name)
        inputs = open_inputs(plan, folder)

    from online_uda.run import start  # torch comes in here, after everything that needs no torch has been checked

    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # torch, of a file that is refused anyway
        runner = start(inputs, folder, resumed=resumed is not None, argv=["python", "run_stream.py", *words])
        if show_scope:
            _print_scope(runner.method, inputs)
        print(f"run folder: {folder}", file=sys.stderr, flush=True)
        summary = runner.run()
    print(f"run folder: {folder}", file=sys.stderr)
    if summary["interrupted"]:
        print(f"stopped; --resume {folder} continues", file=sys.stderr)
        return OK if runner.terminated else INTERRUPTED
    return OK


def _print_scope(method: Any, inputs: Any) -> None:
    from online_uda.adaptation.scope_table import scope_table

    optimizer = method.settings.optimizer.name
    print(scope_table(method.student, method.learning, optimizer=optimizer, size=inputs.size), file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
