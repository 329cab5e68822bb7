"""The public Python API: a run from its configuration to its summary.

>>> from online_uda.config import RunConfig
>>> from online_uda.run import run
>>> summary = run(RunConfig(schedule="quick", method="tent", seed=1), ["anchor.pull=0.05"])  # doctest: +SKIP
"""

from __future__ import annotations

import copy
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from online_uda.adaptation.build import build_method
from online_uda.config import RunConfig
from online_uda.errors import UserError
from online_uda.inputs import RunInputs, open_inputs
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.views import Views
from online_uda.networks.zoo import load_network
from online_uda.reports.environment import describe_environment
from online_uda.reports.run_folder import RunFolder, default_folder
from online_uda.resolve import resolve, resume_plan
from online_uda.runtime.backends import choose_backend
from online_uda.runtime.build_pace import (
    beside_the_stream,
    holds_weights_apart,
    on_time_pace,
    open_clock,
    shared_threads,
)
from online_uda.runtime.clock import RealClock
from online_uda.runtime.constant_speed import ConstantSpeed
from online_uda.runtime.device import autocast, choose_device, choose_precision, use_threads, works_beside
from online_uda.runtime.pace import Pace
from online_uda.runtime.replaceable import Replaceable
from online_uda.runtime.rng import seed_everything
from online_uda.runtime.runner import Runner
from online_uda.runtime.scoring import Scorer
from online_uda.runtime.snapshot import weights_digest
from streams.progress import Progress

__all__ = ["Runner", "resume", "run", "start"]


def run(config: RunConfig, overrides: Sequence[str] = (), *, console: bool = False) -> dict[str, Any]:
    """Runs a schedule through a method and returns the summary, which also stands in the run folder.

    Sets torch's threads and seeds the process-wide random generators.

    Args:
        config: What to run; ``config.out`` is the run folder.
        overrides: ``key=value`` texts, see `online_uda.resolve`.
        console: Whether to print a progress bar (stderr) and the final table (stdout).

    Raises:
        UserError: Bad input (`online_uda.errors.USER_ERRORS`); every fault that can be found early is in one message.
    """
    plan = resolve(config, overrides)
    folder = new_folder(config.out, plan.schedule.name, plan.method_name)
    return start(open_inputs(plan, folder), folder, console=console).run()


def resume(folder: str | Path, *, console: bool = False) -> dict[str, Any]:
    """Continues the run of a folder from its newest snapshot; the numbers are those of an uninterrupted run.

    Args:
        folder: A run folder.
        console: As in `run`.

    Raises:
        UserError: No run folder, or its inputs are no longer what they were.
    """
    earlier = RunFolder.reopen(Path(folder))
    inputs = open_inputs(resume_plan(earlier.config, {}))
    return start(inputs, earlier.path, resumed=True, console=console).run()


def new_folder(out: str | None, schedule: str, method: str) -> Path:
    """The folder of a new run: as asked for, or one of its own below ``runs``."""
    return default_folder(schedule, method) if out is None else Path(out).expanduser()


def start(
    inputs: RunInputs, folder: Path, *, resumed: bool = False, console: bool = True, argv: Sequence[str] | None = None
) -> Runner:
    """Loads the network, makes the run folder, builds the method; what is left is to play.

    Args:
        inputs: Opened stream and source.
        folder: Of the run; a new one is made, and removed again if the method cannot be built.
        resumed: Whether the folder holds a run to continue.
        console: Whether progress and table are printed.
        argv: Command line to record; the process's own by default.

    Raises:
        UserError: Device, network, folder or source images are not usable.
    """
    plan = inputs.plan
    device = choose_device(plan.run.device)
    threads = use_threads(plan.run.threads)
    seed_everything(plan.run.seed)
    options = NetworkOptions(plan.run.init, plan.run.init_head, plan.run.classes)
    loaded = load_network(plan.run.network or "", plan.schedule.class_set, options)
    if console:
        print(f"network: {loaded.description}", file=sys.stderr)
    network = loaded.network.to(device)
    if network.alignment is not None and plan.run.inference.mode == "slide":
        raise UserError(
            f"run.inference.mode=slide: network {plan.network_name} moves the look of frames by place in the picture, "
            f"which a tile does not know; take mode whole"
        )
    digest = weights_digest(network)
    clock = RealClock(device)
    precision = choose_precision(plan.run.precision, network, inputs.size, device, clock)
    beside = works_beside(plan.run.beside, threads, inputs.size, device)
    plan = plan.on_machine(str(device), threads, precision, beside=beside)
    made = [] if resumed else [place for place in (folder, *folder.absolute().parents) if not place.exists()]
    run_folder = RunFolder.reopen(folder) if resumed else RunFolder.create(folder)
    try:
        frozen = copy.deepcopy(network).requires_grad_(False)  # the bar must not depend on what a method does
        recipe = build_method(
            plan.method,
            name=plan.method_name,
            network=loaded,
            classes=plan.schedule.class_set,
            source=inputs.source,
            size=None,
            seed=plan.run.seed,
            device=device,
            bf16=plan.run.precision == "bf16",
            progress=_Progress("source images") if console else None,
        )
        method = Replaceable(recipe) if beside_the_stream(plan.run) else recipe
        plan = plan.predicted_by(
            choose_backend(
                method, plan.run.backend, size=inputs.size, threads=shared_threads(plan.run, threads)[0], clock=clock,
                autocast=lambda: autocast(device, precision), apart=holds_weights_apart(plan.run, method),
                views=Views(plan.run.inference),
            )
        )  # fmt: skip
        if device.type == "cpu" and (plan.run.backend == "onnxruntime" or plan.run.precision == "bf16"):
            # What predicts is about twice as fast as torch in fp32; what watches must not stay behind.
            from online_uda.export.first_stage import OnnxFirstStage

            method.use_first_stage(OnnxFirstStage(network, threads))
        make_pace: Callable[[Scorer], Pace] | None = None
        if plan.run.constant_speed is not None:
            make_pace = partial(ConstantSpeed, method, clock=clock, eta=plan.run.constant_speed)
        if plan.run.has_deadlines:
            make_pace = partial(
                on_time_pace, plan.run, method, open_clock(plan.run, device, inputs.size),
                stream=inputs.stream, size=inputs.size, folder=run_folder.path,
            )  # fmt: skip
        runner = Runner(plan, run_folder, inputs.stream, method, frozen, digest, device, clock, console, make_pace)
        if resumed:
            runner.restore()
    except BaseException:
        for place in made:
            with suppress(OSError):
                place.rmdir()
        raise
    command = list(sys.argv if argv is None else argv)
    if not resumed:
        run_folder.write_config(plan.as_dict(), shlex.join(command))
    run_folder.write_environment(describe_environment(command))
    return runner


class _Progress:
    """Progress of (done, total): a bar on a terminal, elsewhere a plain line now and then."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._shown is None:
            self._shown = Progress(self._what, total, every=None)
        self._shown.update(done)
        if done >= total:
            self._shown.close()
            self._shown = None
