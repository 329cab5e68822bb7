"""The student's mode while it learns, entered and left around every piece, so that it predicts as usual in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from online_uda.adaptation.norm import NormStatistics
from online_uda.adaptation.settings import MethodSettings
from online_uda.networks.segmenter import Segmenter


class StudentMode:
    """Train mode, statistics of the batch, or nothing special: what a method's settings ask for.

    In train mode BatchNorm layers learn their running statistics from the step's crops. Those stay aside until
    `commit`, so that a frame predicted in the middle of a step, or after one that was given up, meets none of it.
    Dropout draws from torch's global generators: it gets a state of its own that runs on from piece to piece.

    Args:
        student: In eval mode; back in it after every piece.
        norm: Of the student.
        settings: Of the method.
        device: Where the student is.
    """

    def __init__(
        self, student: Segmenter, norm: NormStatistics, settings: MethodSettings, device: torch.device
    ) -> None:
        self._student, self._norm = student, norm
        self._trains = settings.student_mode == "train"
        self._device = device
        self._rng: tuple[Tensor, Tensor | None] | None = None
        self._seed = 0
        self._learned: list[Tensor] = []
        self._modes = SwitchedModes(student)

    def begin(self, generator: torch.Generator) -> None:
        """At the start of a step; dropout is seeded by ``generator``, so that a resumed run drops the same."""
        if not self._trains:
            return
        self._seed, self._rng = int(torch.randint(2**62, (), generator=generator).item()), None
        self._learned = self._norm.copy_buffers()
        self._modes.look()

    def commit(self) -> None:
        """Takes over the statistics that the step has learned."""
        if self._trains:
            self._norm.restore_buffers(self._learned)

    def __call__(self) -> AbstractContextManager[None]:
        """Around a piece that runs the student."""
        if self._trains:
            return self._training()
        return self._norm.learning()

    def on_the_frame(self) -> AbstractContextManager[None]:
        """Around a piece that runs the student on the stream's own frame.

        Train mode uses the frame's own statistics anyway, and there the running ones learn from the frame.
        """
        return self._training() if self._trains else self._norm.on_the_frame()

    def again(self) -> AbstractContextManager[None]:
        """Around what has run inside a piece and runs a second time for its gradients: no statistics are learned twice.

        Random numbers are the caller's affair.
        """
        return self._retraining() if self._trains else self._norm.learning()

    def again_on_the_frame(self) -> AbstractContextManager[None]:
        """As `again`, for what ran `on_the_frame`."""
        return self._retraining() if self._trains else self._norm.on_the_frame()

    def looking(self) -> AbstractContextManager[None]:
        """Around a look at the stream's frame that nothing is learned from: no dropout, and no statistics learned."""
        return self._norm.of_the_batch() if self._trains else self._norm.on_the_frame()

    @contextmanager
    def _retraining(self) -> Iterator[None]:
        published = self._norm.copy_buffers()
        self._student.train()
        self._student.light_head.eval()
        try:
            yield
        finally:
            self._student.eval()
            self._norm.restore_buffers(published)

    @contextmanager
    def _training(self) -> Iterator[None]:
        cuda = self._device.type == "cuda"
        published = self._norm.copy_buffers()
        self._norm.restore_buffers(self._learned)
        self._modes.train()
        try:
            with torch.random.fork_rng([self._device] if cuda else []):
                if self._rng is None:
                    torch.manual_seed(self._seed)
                else:
                    torch.set_rng_state(self._rng[0])
                    if self._rng[1] is not None:
                        torch.cuda.set_rng_state(self._rng[1], self._device)
                yield
                self._rng = torch.get_rng_state(), torch.cuda.get_rng_state(self._device) if cuda else None
        finally:
            self._modes.eval()
            self._learned = self._norm.copy_buffers()
            self._norm.restore_buffers(published)


class SwitchedModes:
    """Train mode and back for all but the light head, many times a step: ``train()`` walks the tree each time.

    What a walk changes is found once a step. A module with a ``train`` of its own may do more than set the flag; where
    there is one, every switch is a walk.

    Args:
        student: In eval mode.
    """

    def __init__(self, student: Segmenter) -> None:
        self._student = student
        self._switched: list[nn.Module] | None = None

    def look(self) -> None:
        """Finds what train mode changes; at the start of a step, for parts may have come or gone since the last."""
        self._switched = None
        own = [module for module in self._student.modules() if type(module).train is not nn.Module.train]
        if own == [self._student] and type(self._student) is Segmenter:
            self.train()
            switched = [module for module in self._student.modules() if module.training]
            self.eval()
            self._switched = switched

    def train(self) -> None:
        """To train mode."""
        if self._switched is None:
            self._student.train()
            self._student.light_head.eval()
        else:
            self._set(self._switched, True)

    def eval(self) -> None:
        """Back to eval mode."""
        if self._switched is None:
            self._student.eval()
        else:
            self._set(self._switched, False)

    @staticmethod
    def _set(modules: list[nn.Module], training: bool) -> None:
        for module in modules:
            object.__setattr__(module, "training", training)  # past what a module does to set a parameter
