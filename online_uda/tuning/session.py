"""A study from its first frame to its recipe: streams, search, validation, sensitivity."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from online_uda.config import find_method
from online_uda.errors import UserError
from online_uda.networks.checkpoints import load_folder
from online_uda.networks.spec import form_of
from online_uda.networks.zoo import load_network
from online_uda.reports.run_folder import write_atomically
from online_uda.runtime.device import choose_device, use_threads
from online_uda.runtime.rng import seed_everything
from online_uda.runtime.snapshot import weights_digest
from online_uda.tuning import sensitivity
from online_uda.tuning.conditions import ROLES, STREAMS, Role, draw_visits
from online_uda.tuning.footage import open_footage
from online_uda.tuning.objective import Score
from online_uda.tuning.outcome import CURVE, Outcome
from online_uda.tuning.rehearsal import Rehearsal, rehearse
from online_uda.tuning.search import Candidate, Deadline, Search
from online_uda.tuning.space import space_of
from online_uda.tuning.stage import Stage
from streams.classes import CITYSCAPES_19, CLASS_SETS, ClassSet, find_classes
from streams.sources.labelled import TOWN

STUDY_FILE = "study.json"
FINALISTS = 3
SEARCH_SHARE, VALIDATION_SHARE = 0.65, 0.85
"""Shares of the time at which the search and the validation end."""


@dataclass(frozen=True)
class Study:
    """What a study is about; none of it can change when it goes on.

    Attributes:
        network: Registered name, or folder.
        source: Labelled folder, or ``town``.
        classes: Class set, or None for what the network names.
        methods: To search over.
        size: Height and width of frames; None keeps the source's own.
        frames: Frames of a visit.
        seed: Of streams, sampler and methods.
        harm: Weight of harm.
    """

    network: str
    source: str
    classes: str | None
    methods: tuple[str, ...]
    size: tuple[int, int] | None
    frames: int
    seed: int
    harm: float


@dataclass(frozen=True)
class Effort:
    """How long to go on: until there are ``trials`` candidates or ``minutes`` are over, whichever comes first."""

    trials: int
    minutes: float
    device: str
    threads: int | None


def begin(folder: Path, study: Study) -> None:
    """Makes the folder of a new study.

    Raises:
        UserError: The folder holds something, or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {folder}: is not empty; choose another, or go on with --resume {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / STUDY_FILE, json.dumps(asdict(study), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made: {error.strerror}") from None


def reopen(folder: Path) -> Study:
    """What the study of a folder is about.

    Raises:
        UserError: There is none.
    """
    try:
        stored = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
        size = None if stored["size"] is None else tuple(stored["size"])
        return Study(**{**stored, "methods": tuple(stored["methods"]), "size": size})
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--resume {folder}: holds no study; give the --out of an earlier tune") from None


def tune(folder: Path, study: Study, effort: Effort, command: str) -> tuple[Outcome, bool]:
    """Runs a study, or goes on with it.

    Args:
        folder: Made by `begin`.
        study: What it is about.
        effort: How long.
        command: For the record.

    Returns:
        What was found, and whether Ctrl-C ended it; recipe and log are written in either case.

    Raises:
        UserError: Network, source or methods are not usable, or are not those of the study any more.
    """
    begun = time.monotonic()
    spaces = [space_of(method) for method in study.methods]
    device, threads = choose_device(effort.device), use_threads(effort.threads)
    seed_everything(study.seed)
    classes = _classes(study)
    loaded = load_network(study.network, classes)
    loaded.network.to(device).requires_grad_(False).eval()
    digest = weights_digest(loaded.network)
    _check_same(folder, {"network weights": digest, "methods": [space.document.data for space in spaces]})
    footage = open_footage(study.source, classes, study.size, study.seed)
    length = footage.frames_of_visit(study.frames)
    facts = {
        "network": loaded.description, "source": study.source, "seed": study.seed, "harm": study.harm,
        "frames": f"{footage.size[0]}x{footage.size[1]}, {length} of each visit", "threads": threads,
        "methods": " ".join(study.methods),
    }  # fmt: skip
    names = {
        f"{role}-{number}": [visit.name for visit in draw_visits(role, number, study.seed)]
        for role in ROLES
        for number in range(STREAMS)
    }
    outcome = Outcome(command, facts, names, spent=lambda: _spent(begun))
    stage = Stage(loaded, classes, footage.replayed, study.seed, study.harm)
    try:
        frames = length * sum(map(len, names.values()))
        with tqdm(total=frames, desc="frames", unit="", disable=None, file=sys.stderr) as bar:
            streams: dict[Role, list[Rehearsal]] = {
                role: [
                    rehearse(
                        folder / "streams", footage, loaded.network, digest, role=role, number=number,
                        seed=study.seed, length=length, tick=bar.update,
                    )
                    for number in range(STREAMS)
                ]
                for role in ROLES
            }  # fmt: skip
        search = Search(folder, spaces, stage, streams["search"], study.seed)
        _search(folder, search, effort, begun, outcome)
        _validate(search, stage, streams["held_out"], _deadline(begun, effort, VALIDATION_SHARE), outcome)
        outcome.write(folder)
        _measure(folder, search, stage, streams["search"], _deadline(begun, effort, 1.0), outcome)
    except KeyboardInterrupt:
        outcome.interrupted = True
    outcome.write(folder)
    return outcome, outcome.interrupted


def _spent(begun: float) -> str:
    """What the session has had of the machine: a search is worth the CPU time that it got, not its wall time."""
    load = f", load average {os.getloadavg()[2]:.1f}" if hasattr(os, "getloadavg") else ""
    wall, cpu = (time.monotonic() - begun) / 60.0, time.process_time() / 60.0
    return f"{wall:.1f} minutes, {cpu:.1f} of CPU time, on {os.cpu_count()} cores{load}"


def _deadline(begun: float, effort: Effort, share: float) -> Deadline:
    return Deadline(begun + 60.0 * effort.minutes * share)


def _search(folder: Path, search: Search, effort: Effort, begun: float, outcome: Outcome) -> None:
    def look() -> None:
        outcome.tried, outcome.trials, outcome.pruned = search.best(), search.trials, search.pruned

    def on_trial() -> None:
        before = outcome.tried[0].trial if outcome.tried else None
        look()
        bar.update()
        if outcome.tried and outcome.tried[0].trial != before:
            best = outcome.tried[0]
            bar.set_postfix_str(f"best {best.score.value:+.2f} {best.candidate.space.method}")
            outcome.write(folder)  # a process that is killed leaves the best so far

    with tqdm(total=effort.trials, initial=search.trials, desc="candidates", unit="", file=sys.stderr) as bar:
        look()
        search.run(effort.trials, _deadline(begun, effort, SEARCH_SHARE), on_trial)
    look()
    if not outcome.tried:
        raise UserError("--minutes: not one candidate played its streams to the end; allow more, or give --frames less")


def _validate(search: Search, stage: Stage, streams: list[Rehearsal], deadline: Deadline, outcome: Outcome) -> None:
    """Scores the best few, and what their methods ship with, on streams that the search never saw."""
    best = outcome.tried[0].candidate
    finalists = [best, Candidate(best.space, dict(best.space.shipped))]
    finalists += [
        tried.candidate
        for tried in outcome.tried
        if tried.candidate.space.method == "default" and tried.candidate.is_shipped
    ]
    finalists += [tried.candidate for tried in outcome.tried[1:FINALISTS]]
    found: list[tuple[Candidate, Score]] = []
    for candidate in tqdm(finalists, desc="held out", unit="", file=sys.stderr):
        if any(candidate == other for other, _ in found):
            continue
        method = candidate.space.method
        score = search.book.find("held_out", method, candidate.values)
        if score is None:
            if deadline.is_over and found:
                continue
            score = stage.score(method, candidate.space.settings(candidate.values), streams)
            search.book.note("held_out", method, candidate.values, score)
        found.append((candidate, score))
        outcome.held_out = sorted(found, key=lambda pair: -pair[1].value)


def _measure(
    folder: Path, search: Search, stage: Stage, streams: list[Rehearsal], deadline: Deadline, outcome: Outcome
) -> None:
    if outcome.chosen is None:
        return
    chosen = outcome.chosen[0]
    total = sum(len(option.around(chosen.values[option.key])) for option in chosen.space.options)
    with tqdm(total=total, desc="sensitivity", unit="", file=sys.stderr) as bar:
        outcome.curves = sensitivity.measure(chosen, stage, streams, search.book, deadline, bar.update)
    if outcome.curves:
        sensitivity.plot(outcome.curves, chosen, folder / CURVE)


def _classes(study: Study) -> ClassSet:
    """The class set that was given, or the registered one whose names the network has."""
    if study.classes is not None:
        return find_classes(study.classes)
    if form_of(study.network) != "path" or not Path(study.network).is_dir():
        return CITYSCAPES_19
    names = load_folder(Path(study.network)).class_names
    for known in CLASS_SETS.values():
        if sorted(known.names) == sorted(names):
            return known
    raise UserError(
        f"--classes: {study.network} has the classes of no registered set ({', '.join(CLASS_SETS)}); "
        f"name one, or give a YAML file"
    )


def _check_same(folder: Path, inputs: dict[str, Any]) -> None:
    """Notes what the study's numbers depend on, and refuses to go on with something else."""
    path = folder / "inputs.json"
    text = json.dumps(inputs, indent=1, sort_keys=True) + "\n"
    if not path.is_file():
        write_atomically(path, text)
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in inputs if stored.get(key) != json.loads(text)[key]]
    if changed:
        raise UserError(f"{folder}: the {' and the '.join(changed)} changed since the study began; begin a new one")


def check_source(source: str) -> str:
    """A source as it can be used from any working directory.

    Raises:
        UserError: It is a schedule or a single file, which could only be the target.
    """
    if source == TOWN:
        return source
    path = Path(source).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        raise UserError(
            f"--source {source}: is a file; tune never sees a target stream or schedule, it renders its own: "
            f"give a folder with images/ and labels/"
        )
    return str(path.absolute())


def check_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    """Methods that have something to tune, each once.

    Raises:
        UserError: One is unknown or has nothing to tune, or two are the same.
    """
    for method in methods:
        if not space_of(method).options:
            raise UserError(
                f"--methods {method}: has no option that can be tuned; leave it out (frozen is the bar anyway)"
            )
    if len(set(methods)) < len(methods):
        raise UserError("--methods: one is named twice; name each once")
    return tuple(str(Path(m).expanduser().absolute()) if find_method(m).stem != m else m for m in methods)
