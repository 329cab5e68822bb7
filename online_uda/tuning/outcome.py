"""What a study has found, as files: the recipe, a JSON of everything, a log for people."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from online_uda.adaptation.settings import MethodSettings
from online_uda.config import METHODS
from online_uda.evaluation.summary import json_safe
from online_uda.reports.hparams import flat, write_session
from online_uda.reports.run_folder import write_atomically
from online_uda.tuning.objective import Score
from online_uda.tuning.search import Candidate, Tried
from online_uda.tuning.sensitivity import Curves
from streams.yaml_config import build, load_yaml

RECIPE, RECORD, LOG, CURVE, CURVE_DATA = "recipe.yaml", "tune.json", "tune.md", "sensitivity.png", "sensitivity.json"
SESSIONS = "tensorboard"
_SHOWN = 12


@dataclass
class Outcome:
    """Everything that is known so far; any of it may still be missing.

    Attributes:
        command: That made it.
        facts: Network, footage, seed, size and the like, by name.
        streams: Name of each stream, with its visits.
        spent: Tells how much time the session has taken.
        tried: Candidates that played the search's streams to the end, best first.
        trials: Candidates, those that were stopped early among them.
        pruned: Those.
        held_out: Finalists with their scores on the held-out streams, best first.
        curves: Sensitivity of the chosen one.
        interrupted: Whether there was more to do.
    """

    command: str
    facts: dict[str, Any]
    streams: dict[str, list[str]]
    spent: Callable[[], str]
    tried: Sequence[Tried] = ()
    trials: int = 0
    pruned: int = 0
    held_out: list[tuple[Candidate, Score]] = field(default_factory=list)
    curves: Curves = field(default_factory=dict)
    interrupted: bool = False

    @property
    def chosen(self) -> tuple[Candidate, Score] | None:
        """The finalist that is best on the held-out streams, before these the best of the search; None: frozen is."""
        if self.held_out:
            best = self.held_out[0]
        elif self.tried:
            best = self.tried[0].candidate, self.tried[0].score
        else:
            return None
        return best if best[1].value > 0.0 else None

    def write(self, folder: Path) -> None:
        """Writes recipe, record and log, each whole or not at all, and the rows of TensorBoard's HPARAMS page."""
        write_atomically(folder / RECIPE, self.recipe())
        write_atomically(folder / RECORD, json.dumps(json_safe(self.record()), indent=1) + "\n")
        write_atomically(folder / LOG, self.log())
        self._write_sessions(folder / SESSIONS)
        if self.curves:
            write_atomically(folder / CURVE_DATA, json.dumps(json_safe(self._curve_record()), indent=1) + "\n")

    def _write_sessions(self, folder: Path) -> None:
        """Every candidate as a row of TensorBoard's HPARAMS page; one that is there is not written again."""
        rows = [(f"search_{one.trial:04d}", "search", one.candidate, one.score) for one in self.tried]
        rows += [(_held_out_name(c), "held out", c, score) for c, score in self.held_out]
        for name, streams, candidate, score in rows:
            if (folder / name).exists():
                continue
            settings = {"method": candidate.space.method, "streams": streams, **flat(candidate.values)}
            metrics = {
                "value": score.value, "hmean": score.hmean, "gain": score.hmean - score.hmean_frozen,
                "worst_visit": min(visit.miou for visit in score.visits), "worst_visit_gain": score.worst_gain,
            }  # fmt: skip
            write_session(folder / name, settings, metrics)

    def recipe(self) -> str:
        """The YAML that ``--method`` takes, under a header of where it comes from."""
        chosen = self.chosen
        if chosen is None:
            document = load_yaml(METHODS / "frozen.yaml")
            name = "frozen"
        else:
            document, name = chosen[0].space.with_values(chosen[0].values), chosen[0].space.method
        build(MethodSettings, document)
        header = [f"python run_stream.py --method {RECIPE}", f"Found by: {self.command}"]
        header += [f"{key}: {value}" for key, value in self.facts.items()]
        header.append(
            f"{self.trials} candidates, {self.pruned} stopped early; method {name}, objective in docs/tune.md"
        )
        header += [f"stream {key}: {', '.join(visits)}" for key, visits in self.streams.items()]
        header += self._expectations()
        lines = [line for text in header for line in textwrap.wrap(text, 116, break_on_hyphens=False)]
        body = yaml.safe_dump(document.data, sort_keys=False, allow_unicode=True, width=120)
        return "".join(f"# {line}\n" for line in lines) + body

    def _expectations(self) -> list[str]:
        chosen = self.chosen
        if chosen is None:
            return [
                "No candidate was better than the frozen network on streams it was not searched on: this is frozen."
            ]
        candidate, score = chosen
        where = "held-out streams" if self.held_out else "the search's streams, NOT YET VALIDATED on others"
        gains = ", ".join(f"{visit.domain} {visit.gain:+.1f}" for visit in score.visits)
        lines = [
            f"Expected ({where}): value {score.value:+.2f}; harmonic mean {score.hmean:.2f} against "
            f"{score.hmean_frozen:.2f} frozen; gain of each visit: {gains}"
        ]
        changed = {k: v for k, v in candidate.values.items() if v != candidate.space.shipped[k]}
        lines.append(
            "Tuned: " + ", ".join(f"{key} {candidate.space.shipped[key]} -> {value}" for key, value in changed.items())
            if changed
            else "Nothing is changed: the shipped settings were best."
        )
        for key, points in self.curves.items():
            lines.append(f"Sensitivity to {key}: " + ", ".join(f"{value} {worth:+.2f}" for value, worth in points))
        return lines

    def record(self) -> dict[str, Any]:
        """JSON-safe record of the study."""
        chosen = self.chosen
        return {
            "schema": "online_uda.tune/1",
            "command": self.command,
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "facts": self.facts,
            "spent": self.spent(),
            "streams": self.streams,
            "trials": self.trials,
            "pruned": self.pruned,
            "interrupted": self.interrupted,
            "chosen": None if chosen is None else _entry(*chosen),
            "held_out": [_entry(*finalist) for finalist in self.held_out],
            "search": [{**_entry(tried.candidate, tried.score), "trial": tried.trial} for tried in self.tried],
        }

    def _curve_record(self) -> dict[str, Any]:
        assert self.chosen is not None
        curves = {
            key: [{"setting": setting, "value": worth} for setting, worth in points]
            for key, points in self.curves.items()
        }
        return {"method": self.chosen[0].space.method, "settings": self.chosen[0].values, "curves": curves}

    def log(self) -> str:
        """The study as Markdown."""
        lines = ["# Tuned before deployment", "", "```", self.command, "```", ""]
        lines += [f"- {key}: {value}" for key, value in self.facts.items()]
        lines += [f"- stream `{key}`: {', '.join(visits)}" for key, visits in self.streams.items()]
        lines += [f"- {self.trials} candidates, {self.pruned} of them stopped early", f"- spent: {self.spent()}"]
        if self.interrupted:
            lines.append("- interrupted; `--resume` goes on")
        lines += ["", "Values are points of harmonic mean over frozen, less the largest fall of a visit below frozen."]
        if self.held_out:
            lines += ["", "## Finalists on streams that the search never saw", ""]
            domains = [f"{visit.domain} ({visit.stream[-1]})" for visit in self.held_out[0][1].visits]
            lines += [f"| method | settings | value | h-mean | frozen | {' | '.join(domains)} |"]
            lines += ["|" + "---|" * (5 + len(domains))]
            lines += [_row(candidate, score) for candidate, score in self.held_out]
        if self.tried:
            lines += [
                "",
                "## Best of the search",
                "",
                "| method | settings | value | h-mean | worst gain |",
                "|---|---|---|---|---|",
            ]
            lines += [
                f"| {t.candidate.space.method} | {_settings(t.candidate)} | {t.score.value:+.2f} | {t.score.hmean:.2f} "
                f"| {t.score.worst_gain:+.2f} |"
                for t in self.tried[:_SHOWN]
            ]
            lines += ["", "## Shipped settings in the search", "", "| method | value |", "|---|---|"]
            lines += [
                f"| {t.candidate.space.method} | {t.score.value:+.2f} |" for t in self.tried if t.candidate.is_shipped
            ]
        if self.curves:
            lines += ["", "## Sensitivity of the choice", "", f"![one option changed at a time]({CURVE})", ""]
            for key, points in self.curves.items():
                lines.append(f"- `{key}`: " + ", ".join(f"{value} → {worth:+.2f}" for value, worth in points))
        lines += ["", *self._expectations()[:2]]
        return "\n".join(lines) + "\n"


def _entry(candidate: Candidate, score: Score) -> dict[str, Any]:
    return {
        "method": candidate.space.method, "shipped": candidate.is_shipped, "settings": candidate.values,
        **score.as_dict(),
    }  # fmt: skip


def _held_out_name(candidate: Candidate) -> str:
    """Of a finalist's session: the same whenever the study goes on."""
    content = json.dumps([candidate.space.method, candidate.values], sort_keys=True)
    return f"held_out_{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _settings(candidate: Candidate) -> str:
    if candidate.is_shipped:
        return "as shipped"
    return ", ".join(f"{key}={value}" for key, value in candidate.values.items())


def _row(candidate: Candidate, score: Score) -> str:
    cells = [f"{visit.gain:+.1f}" for visit in score.visits]
    return (
        f"| {candidate.space.method} | {_settings(candidate)} | {score.value:+.2f} | {score.hmean:.2f} "
        f"| {score.hmean_frozen:.2f} | {' | '.join(cells)} |"
    )
