"""The search: Optuna's TPE over methods and their settings; candidates that fall behind are stopped on the way.

After every visit a candidate reports its value so far. One that is below the median of what others had at the same
visit is given up (`optuna.pruners.MedianPruner`). Every method's shipped settings are tried first, so that what is
found is never worse than the best of these on the search's streams.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from online_uda.tuning.objective import Score, VisitGain
from online_uda.tuning.rehearsal import Rehearsal
from online_uda.tuning.scorebook import Scorebook
from online_uda.tuning.space import Space, Values
from online_uda.tuning.stage import Stage

JOURNAL = "study.journal"
STUDY = "tune"
_FULL_FIRST = 4
_STEP = 1000.0
_OVER = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Candidate:
    """A method with values of its options.

    Attributes:
        space: Of the method.
        values: By dotted key.
    """

    space: Space
    values: Values

    @property
    def is_shipped(self) -> bool:
        """Whether the values are those that the method ships with."""
        return self.values == self.space.shipped


@dataclass(frozen=True)
class Tried:
    """A candidate that played every search stream to the end."""

    candidate: Candidate
    score: Score
    trial: int


@dataclass
class Deadline:
    """When a phase has to end.

    Attributes:
        at_s: On the monotonic clock; None never.
    """

    at_s: float | None

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self.at_s is not None and time.monotonic() >= self.at_s


class Search:
    """A study in a folder; another search in the same folder goes on with it.

    Args:
        folder: Of the study.
        spaces: Methods and what is tuned of them.
        stage: Where candidates play.
        streams: The search's.
        seed: Of the sampler.
    """

    def __init__(
        self, folder: Path, spaces: Sequence[Space], stage: Stage, streams: Sequence[Rehearsal], seed: int
    ) -> None:
        self._spaces = {space.method: space for space in spaces}
        self._stage, self._streams = stage, streams
        self.book = Scorebook(folder / "scores.jsonl", stage.harm)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        self._study = optuna.create_study(
            storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_FULL_FIRST, n_warmup_steps=1),
        )  # fmt: skip
        self._give_up_interrupted()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # multivariate and group are called experimental
            # With the same seed a study that goes on would draw its first candidates again.
            self._study.sampler = optuna.samplers.TPESampler(
                seed=seed + len(self._study.trials), multivariate=True, group=True,
                n_startup_trials=max(10, 2 * len(self._spaces)),
            )  # fmt: skip
        self._enqueue_shipped()

    @property
    def trials(self) -> int:
        """Candidates so far, those that were stopped early among them."""
        return len(self._study.get_trials(deepcopy=False, states=_OVER))

    @property
    def pruned(self) -> int:
        """Candidates that were stopped early."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))

    def best(self) -> list[Tried]:
        """Candidates that played to the end, best first, each once."""
        found: dict[str, Tried] = {}
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            candidate = self._candidate(trial)
            score = self.book.find("search", candidate.space.method, candidate.values)
            if score is not None:
                found.setdefault(str((candidate.space.method, candidate.values)), Tried(candidate, score, trial.number))
        return sorted(found.values(), key=lambda tried: (-tried.score.value, tried.trial))

    def run(self, most: int, deadline: Deadline, on_trial: Callable[[], None]) -> None:
        """Tries candidates until there are ``most``, or the time is up.

        Args:
            most: Candidates of the whole study.
            deadline: Looked at after every visit; a candidate that it cuts off does not count.
            on_trial: Called after every candidate.

        Raises:
            KeyboardInterrupt: Ctrl-C; the candidate at hand does not count.
        """
        while self.trials < most and not deadline.is_over:
            trial = self._study.ask()
            try:
                over = self._try(trial, deadline)
            except BaseException:
                self._study.tell(trial, state=TrialState.FAIL)
                raise
            if not over:
                return
            on_trial()

    def _try(self, trial: optuna.trial.Trial, deadline: Deadline) -> bool:
        """Plays one candidate; False where the time was up before it ended."""
        space = self._spaces[trial.suggest_categorical("method", list(self._spaces))]
        candidate = Candidate(space, space.suggest(trial))
        settings = space.settings(candidate.values)
        known = self.book.find("search", space.method, candidate.values)
        visits: list[VisitGain] = []
        for step, visit in enumerate(self._stage.play(space.method, settings, self._streams) if known is None else ()):
            visits.append(visit)
            value = Score.of(visits, self._stage.harm).value
            # The pruner takes the best report of a candidate; rising by more than any gain, the last one is the best.
            trial.report(value + _STEP * step, step)
            last = step + 1 == sum(len(stream.visits) for stream in self._streams)
            if not last and trial.should_prune():
                self._study.tell(trial, state=TrialState.PRUNED)
                return True
            if not last and deadline.is_over:
                self._study.tell(trial, state=TrialState.FAIL)
                return False
        score = known or Score.of(visits, self._stage.harm)
        if known is None:
            self.book.note("search", space.method, candidate.values, score)
        self._study.tell(trial, score.value)
        return True

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        space = self._spaces[trial.params["method"]]
        replayed = optuna.trial.FixedTrial(trial.params)
        return Candidate(space, space.suggest(replayed))  # type: ignore[arg-type]

    def _give_up_interrupted(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _enqueue_shipped(self) -> None:
        met = [
            {**trial.params, **trial.system_attrs.get("fixed_params", {})}
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state in (*_OVER, TrialState.WAITING)
        ]
        for space in self._spaces.values():
            wanted = space.parameters(space.shipped)
            if wanted not in met:
                self._study.enqueue_trial(wanted)
