"""The guard of a method: which frames it may see, which weights may predict, and what happens to those that may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from online_uda.adaptation.guards.canary import Answer, Canary, Judgement
from online_uda.adaptation.guards.event import Action, Cause, GuardEvent
from online_uda.adaptation.guards.ladder import Ladder
from online_uda.adaptation.guards.last_good import LastGood
from online_uda.adaptation.guards.signs import all_finite, blank_frame, effective_classes
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings import GuardSettings
from online_uda.networks.segmenter import Segmentation

Fault = tuple[Cause, str]


class Guard:
    """Watches frames, predictions and candidates of a method; acts only when one of them is bad.

    Every candidate must be finite. Every ``settings.every``-th is scored on the canary, and what passes is kept to go
    back to. A candidate that fails is replaced by the kept weights, or by the source network's if those fail too. After
    a failure the guard is in doubt until ``settings.every`` candidates have been as good as the source network: each is
    scored, and `rate` scales the steps.

    Args:
        settings: The guards slot.
        weights: The networks that it may put back.
        canary: Labelled source images; None scores nothing.
        deployed: Answers as `predict` does, with the weights at hand; records nothing.
        source: Answers with the source network.
        source_at_once: The same in one go.
        on_rollback: Called after weights were put back, so that the optimiser forgets what led there.
    """

    def __init__(
        self,
        settings: GuardSettings,
        weights: LastGood,
        canary: Canary | None,
        *,
        deployed: Answer,
        source: Answer,
        source_at_once: Callable[[Tensor], Segmentation],
        on_rollback: Callable[[], None],
    ) -> None:
        self._settings, self._weights, self._canary = settings, weights, canary
        self._deployed, self._source, self._source_at_once = deployed, source, source_at_once
        self._on_rollback = on_rollback
        self._ladder = Ladder(settings.rate_factor, settings.patience, settings.rest, settings.every)
        self._events: list[GuardEvent] = []
        self._since = 0
        self._skipping = False

    @property
    def rate(self) -> float:
        """Factor on the learning rate, in (0, 1]; 1 while nothing is wrong."""
        return self._ladder.rate

    @property
    def _in_doubt(self) -> bool:
        """Whether a failure has not been undone yet."""
        return self.rate < 1.0

    @property
    def resting(self) -> bool:
        """Whether the source weights predict and nothing may be learned."""
        return self._ladder.resting > 0

    def take_events(self) -> list[GuardEvent]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    @staticmethod
    def shows_nothing(frames: Tensor) -> bool:
        """Whether what was learned has nothing to say to ``frames`` (1, 3, H, W), and the source network answers."""
        return blank_frame(frames) is not None

    def refuses(self, frames: Tensor, prediction: Segmentation) -> bool:
        """Looks at a predicted frame, once for each; tells whether the method must not see it.

        A frame that shows nothing is refused. If one class takes the whole prediction and the source network sees more,
        the weights are bad and are put back.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
            prediction: With the weights at hand.
        """
        if self._ladder.tick():
            self._note("resume", "rest over", f"learning again at {self.rate:g} of the rate")
        fault = self._fault_of_frame(frames, prediction)
        if fault is None:
            self._skipping = False
            return False
        if not self._skipping:
            self._note("skip", *fault)
        self._skipping = True
        return True

    def _fault_of_frame(self, frames: Tensor, prediction: Segmentation) -> Fault | None:
        blank = blank_frame(frames)
        if blank is not None:
            return "blank", blank
        classes = effective_classes(prediction.logits)
        if classes >= self._settings.collapse:
            return None
        seen = effective_classes(self._source_at_once(frames).logits)
        if seen >= self._settings.collapse and not self.resting:
            cause: Cause = "collapse" if classes == classes else "non-finite"
            self._throw_away((cause, f"{classes:.1f} classes in effect where the source network sees {seen:.1f}"))
        # Where the source network sees one class too, the domain may be far: that is what learning is for.
        return None

    def review(self, frames: Tensor, *, changed: bool) -> Pieces[None]:
        """Checks the weights after a step, in pieces; puts others in their place if they are bad.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1], the frame that was learned from.
            changed: Whether a domain change was found at it.
        """
        yield "guard.finite"
        if changed and self._canary is not None:
            self._canary.forget()
        if not all_finite(self._weights.learning):
            self._throw_away(("non-finite", "a weight is not finite"))
            return
        self._since += 1
        if self._since < self._settings.every and not self._in_doubt:
            return
        self._since = 0
        if self._canary is None:
            self._pass(better=True)
            return
        judgement = yield from self._canary.judge(self._deployed, self._source, frames)
        fault = self._fault_of_candidate(judgement)
        if fault is None:
            self._pass(better=judgement.miou >= judgement.miou_source)
            return
        if not self._ladder.fail():
            self._weights.restore()
            judgement = yield from self._canary.judge(self._deployed, self._source, frames)
            if self._fault_of_candidate(judgement) is not None:
                self._weights.to_source()
                fault = fault[0], f"{fault[1]}; the weights before it fail too, back to the source weights"
        self._replaced(fault)

    def _fault_of_candidate(self, judgement: Judgement) -> Fault | None:
        # Written so that a score that is not a number fails.
        if not judgement.miou >= judgement.miou_source - self._settings.margin:
            return (
                "canary",
                f"mIoU {judgement.miou:.1f} on the canary, {judgement.miou_source:.1f} of the source network",
            )
        apart = judgement.agreement - judgement.agreement_frame
        if not apart <= self._settings.disagreement:
            return "disagreement", (
                f"agrees with the source network on {judgement.agreement_frame:.0%} of the frame, "
                f"on {judgement.agreement:.0%} of the canary"
            )
        return None

    def _pass(self, *, better: bool) -> None:
        """Good enough to go back to; only what is no worse than the source network earns a higher rate."""
        self._weights.keep()
        if better:
            self._ladder.succeed()

    def _throw_away(self, fault: Fault) -> None:
        if not self._ladder.fail():
            self._weights.restore()
        self._replaced(fault)

    def _replaced(self, fault: Fault) -> None:
        """After a failure: a rest that begins takes the source weights; the optimiser forgets; the deed is told."""
        self._since = 0
        if self.resting:
            self._weights.to_source()
        self._on_rollback()
        cause, detail = fault
        if self.resting:
            self._note("frozen", cause, f"{detail}; the source weights predict for {self._ladder.resting} frames")
        else:
            self._note("rollback", cause, f"{detail}; learning rate at {self.rate:g} of its own")

    def _note(self, action: Action, cause: Cause, detail: str) -> None:
        self._events.append(GuardEvent(action, cause, detail))

    def state_dict(self) -> dict[str, Any]:
        """Everything later decisions depend on."""
        return {
            "weights": self._weights.state_dict(),
            "canary": None if self._canary is None else self._canary.state_dict(),
            "ladder": self._ladder.state_dict(),
            "since": self._since,
            "skipping": self._skipping,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict` bit for bit."""
        self._weights.load_state_dict(state["weights"])
        if self._canary is not None:
            self._canary.load_state_dict(state["canary"])
        self._ladder.load_state_dict(state["ladder"])
        self._since, self._skipping = int(state["since"]), bool(state["skipping"])
        self._events = []
