"""Flags and YAML files become one validated plan of a run; every fault in any of them is reported at once.

Override rule of the command line: ``key=value`` sets a key of the method's YAML (``anchor.pull=0.05``); keys of the
schedule and of the run itself start with ``schedule.`` and ``run.`` (``schedule.fps=5``, ``run.precision=fp32``).
A method's settings come from its file, then from ``methods: {NAME: ...}`` of the schedule, then from overrides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from online_uda._documents import nested, overlaid, part
from online_uda.adaptation.settings import MethodSettings
from online_uda.config import (
    METHODS,
    NUMBERS_UNTOUCHED,
    Faults,
    RunConfig,
    RunPlan,
    differences,
    find_method,
    named_methods,
)
from online_uda.errors import USER_ERRORS, UserError
from online_uda.networks.catalogue import DEFAULT_NETWORK
from online_uda.networks.spec import described_networks, form_of, function_parts, with_adapters
from online_uda.seed_names import preset
from online_uda.stream_schedule import named_feed, stream_document
from streams.bound_data import named_data
from streams.classes import CITYSCAPES_19, CLASS_SETS, find_classes
from streams.datasets.base import DatasetSettings
from streams.datasets.registry import absolute_spec, looks_like_spec
from streams.schedule import SCHEDULES, Schedule, build_schedule, find_schedule
from streams.sources.labelled import TOWN
from streams.yaml_config import ConfigError, Located, build, from_mapping, load_yaml, unknown_name
from streams.yaml_config import with_overrides as override

_RUN, _SCHEDULE, _METHOD = "run", "schedule", "method"
_NUMBERS = {
    "frames": int,
    "seed": int,
    "threads": int,
    "workers": int,
    "snapshot_every": int,
    "fps": float,
    "budget_ms": float,
}


def resolve(options: RunConfig | Mapping[str, Any], overrides: Sequence[str] = ()) -> RunPlan:
    """Reads the schedule and the method that `options` name, and checks all of it.

    Args:
        options: A `RunConfig`, or values by key; numbers may be text, as flags are.
        overrides: ``key=value`` texts; see the module's docstring.

    Raises:
        ConfigError: A line for every fault.
    """
    if isinstance(options, RunConfig):
        options = options.model_dump(mode="json")
    split, faults = _split(overrides), Faults()
    _misplaced(split, faults)
    run = _build_run(_flags(options), split, faults)
    if run.stream is not None and run.schedule != RunConfig.model_fields["schedule"].default:
        faults.lines.append("--stream and --schedule exclude each other; a run plays one of them")
    schedule = method = None
    schedule_document = from_mapping({}, run.schedule)
    with faults.collecting():
        if run.stream is not None:
            path, document = Path("--stream"), stream_document(run.stream, run.classes)
        else:
            path = find_schedule(run.schedule)
            document = load_yaml(path)
        schedule_document = override(nested(document, _SCHEDULE), split[_SCHEDULE])
        schedule = _build_schedule(schedule_document, path, named_data(run.data))
    method_name = run.method
    with faults.collecting():
        path = find_method(run.method)
        method_name = path.stem
        document = load_yaml(path)
        known = preset(run.method)
        if known is not None:
            method_name, document = run.method, override(document, known.overrides)
        with faults.collecting():
            tuned = _tuned(schedule_document, method_name, faults)
            if schedule is None or schedule.methods:  # where data took the town's place, they were left behind
                document = overlaid(document, tuned)
        method = build(MethodSettings, document, split[_METHOD])
    run = _absolute(run, schedule, faults)
    faults.raise_any()
    assert schedule is not None
    assert method is not None
    return RunPlan(run, schedule, method, method_name)


def resume_plan(config: Path, options: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunPlan:
    """The plan of an earlier run, checked against what the command line asks of its continuation.

    Args:
        config: The run folder's ``config.yaml``.
        options: Values by key, given again; keys left out are those of the run.
        overrides: ``key=value`` texts, given again.

    Raises:
        UserError: Another configuration is asked for: lists the keys that differ.
        ConfigError: The stored configuration or an option is faulty.
    """
    stored_document = load_yaml(config)
    stored = _stored_plan(stored_document, _split(()))
    # "auto" asks for nothing: the run has found its device and precision.
    options = {key: value for key, value in options.items() if value not in (None, "auto")}
    split, faults = _split(overrides), Faults()
    _misplaced(split, faults)
    run = _build_run(overlaid(nested(part(stored_document, _RUN), _RUN), _flags(options)), split, faults)
    faults.raise_any()
    named = {*options, *(text.partition("=")[0].strip().removeprefix("run.") for text in split[_RUN])}
    if named & {"schedule", "stream", "method"}:
        wanted = resolve(run, [*split[_SCHEDULE], *split[_METHOD]])
    else:
        wanted = replace(_stored_plan(stored_document, split), run=_absolute(run, stored.schedule, faults))
    ignored = [f"{_RUN}.{key}:" for key in NUMBERS_UNTOUCHED]
    for key in (_SCHEDULE, _METHOD):
        if getattr(stored.run, key) != getattr(wanted.run, key) or (
            key == _SCHEDULE and stored.run.stream != wanted.run.stream
        ):
            ignored.append(f"{key}.")  # another name says it; the list of its settings would bury the rest
    lines = [line for line in differences(stored.as_dict(), wanted.as_dict()) if not line.startswith(tuple(ignored))]
    if lines:
        raise UserError(
            f"{config.parent} was run with another configuration: {'; '.join(lines)}; "
            f"leave these out to continue it, or start a new run with --out"
        )
    return wanted


def _split(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Overrides by the document they go to."""
    split: dict[str, list[str]] = {_RUN: [], _SCHEDULE: [], _METHOD: []}
    for text in overrides:
        first = text.partition("=")[0].strip().partition(".")[0]
        split[first if first in (_RUN, _SCHEDULE) else _METHOD].append(text)
    return split


def _misplaced(split: dict[str, list[str]], faults: Faults) -> None:
    """Takes out overrides whose key belongs to another document than their prefix says, and tells where."""
    for text in [text for texts in split.values() for text in texts if "=" in text]:
        key, _, value = (side.strip() for side in text.partition("="))
        first = key.partition(".")[0]
        target = first if first in (_RUN, _SCHEDULE) else _METHOD
        if key in (_RUN, _SCHEDULE):
            advice = f"write --schedule {value}" if key == _SCHEDULE else "write run.KEY=VALUE"
        elif target != _METHOD or first in MethodSettings.model_fields:
            continue
        elif key == _METHOD:
            advice = f"write --method {value}"
        elif first == _METHOD:
            advice = "keys of the method stand without a prefix; write " + text.strip().removeprefix("method.")
        elif first in RunConfig.model_fields and first in Schedule.model_fields:
            advice = f"is a key of the run and of the schedule; write run.{text.strip()} or schedule.{text.strip()}"
        elif first in RunConfig.model_fields:
            advice = f"is a key of the run; write run.{text.strip()}"
        elif first in Schedule.model_fields:
            advice = f"is a key of the schedule; write schedule.{text.strip()}"
        else:
            continue
        split[target].remove(text)
        faults.lines.append(f"command line: {text}: {advice}")


def _flags(options: Mapping[str, Any]) -> Located:
    """Options as the ``run`` part of a document; errors start with the flag as typed."""
    document = from_mapping({}, "command line")
    data: dict[str, Any] = {}
    values = dict(document.values)
    for key, value in options.items():
        if value is None:
            continue
        place = f"--{key.replace('_', '-')}"
        if isinstance(value, str) and key in _NUMBERS:
            with suppress(ValueError):  # else it stays text, and the model says what it expected
                value = _NUMBERS[key](value)
        data[key], values[(key,)] = value, place
    return nested(Located(document.name, data, values, values), _RUN)


def _build_run(document: Located, split: Mapping[str, list[str]], faults: Faults) -> RunConfig:
    """The run's own keys; where one is faulty, a stand-in with the names, so that the rest can be checked too."""
    document = override(document, split[_RUN])
    run = replace(part(document, _RUN), problems=document.problems)
    try:
        return build(RunConfig, run)
    except ConfigError as error:
        # A flag is its own place: "--seed: expected ..." says the key once.
        faults.lines += [re.sub(r"^--([a-z-]+): [a-z_]+: ", r"--\1: ", line) for line in error.lines]
    names = {key: run.data[key] for key in ("schedule", "method", "network") if _is_name(run.data.get(key))}
    return RunConfig.model_validate(names)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _build_schedule(document: Located, path: Path, data: Mapping[str, DatasetSettings] | None = None) -> Schedule:
    return build_schedule(replace(part(document, _SCHEDULE), problems=document.problems), path, data=data)


def _tuned(schedule: Located, method_name: str, faults: Faults) -> Located:
    """What the schedule sets for the method; names that are no method are faults."""
    tuned = part(schedule, _SCHEDULE, "methods")
    known = named_methods()
    for key in tuned.data:
        if key != method_name and key not in known:
            place = tuned.place((key,), of_key=True)
            faults.lines.append(f"{place}: methods.{key}: {unknown_name('method', key, known)}")
    return part(tuned, method_name)


def _stored_plan(document: Located, split: Mapping[str, list[str]]) -> RunPlan:
    """The plan that ``config.yaml`` holds, under further overrides of schedule and method."""
    unknown = document.data.keys() - {_RUN, _SCHEDULE, _METHOD}
    missing = {_RUN, _SCHEDULE, _METHOD} - document.data.keys()
    if unknown or missing:
        raise UserError(f"{document.name}: not the configuration of a run; expected the keys run, schedule, method")
    faults = Faults(list(document.problems))
    run = schedule = method = None
    with faults.collecting():
        run = build(RunConfig, part(document, _RUN))
    with faults.collecting():
        schedule = _build_schedule(
            override(nested(part(document, _SCHEDULE), _SCHEDULE), split[_SCHEDULE]), Path("run")
        )
    with faults.collecting():
        method = build(MethodSettings, part(document, _METHOD), split[_METHOD])
    faults.raise_any()
    assert run is not None
    assert schedule is not None
    assert method is not None
    return RunPlan(run, schedule, method, Path(run.method).stem)


def _absolute(run: RunConfig, schedule: Schedule | None, faults: Faults) -> RunConfig:
    """Paths that hold from any working directory, and the network that a run without ``--network`` takes."""
    changes: dict[str, Any] = {}
    network = run.network
    if network is None and schedule is not None:
        network = DEFAULT_NETWORK
        if schedule.classes != CITYSCAPES_19.name:
            faults.lines.append(
                f"--network: {DEFAULT_NETWORK} knows {CITYSCAPES_19.name}, this schedule is labelled in "
                f"{schedule.classes}; give --network DIR, a network of these classes"
            )
    if network is not None:
        changes["network"] = _absolute_network(network)
    if run.stream is not None:
        with suppress(*USER_ERRORS):  # reported where it was looked up
            changes["stream"] = named_feed(run.stream).where
    for key in ("save_video", "save_masks"):
        if getattr(run, key) is not None:
            changes[key] = _absolute_path(getattr(run, key))
    if run.clock != "real":
        changes["clock"] = _absolute_path(run.clock)
    if run.source is not None and run.source != TOWN:
        changes["source"] = absolute_spec(run.source) if looks_like_spec(run.source) else _absolute_path(run.source)
    if run.data:
        changes["data"] = tuple(absolute_spec(text) for text in run.data)
    if run.classes is not None and run.classes not in CLASS_SETS:
        changes["classes"] = _absolute_path(run.classes)
        with faults.collecting():
            find_classes(changes["classes"] if Path(run.classes).suffix else run.classes)
    for key, named in (("schedule", find_schedule), ("method", find_method)):
        with suppress(*USER_ERRORS):  # reported where it was looked up
            path = named(getattr(run, key))
            if path.parent not in (SCHEDULES, METHODS):
                changes[key] = _absolute_path(str(path))
    return run.model_copy(update=changes)


def _absolute_network(name: str) -> str:
    form = form_of(name)
    adapters = with_adapters(name)
    if adapters is not None:
        return f"{_absolute_network(adapters[0])}@{_absolute_path(str(adapters[1]))}"
    if form == "function":
        source, weights = function_parts(name)
        return f"{source}@{_absolute_path(weights)}" if weights else name
    is_file = form in ("description", "path") and name not in described_networks()
    return _absolute_path(name) if is_file else name


def _absolute_path(text: str) -> str:
    with suppress(RuntimeError):  # ~name of nobody on this machine
        return str(Path(text).expanduser().absolute())
    return text
