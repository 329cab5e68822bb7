"""Any module that maps frames to logits, behind the interface of a segmentation network."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.networks.class_merge import merged
from online_uda.networks.discover import Discovery, discover, first_line
from online_uda.networks.heads import LightHead, init_weights
from online_uda.networks.module_output import first_of, logits_of
from online_uda.networks.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmentation, Segmenter
from online_uda.out_of_memory import is_out_of_memory

Triple = tuple[float, float, float]
PREFIX = "inner."


class _Taken:
    """Maps that the hooks have seen in this call, and when to stop."""

    def __init__(self, stop_after: int | None) -> None:
        self.maps: dict[int, Tensor] = {}
        self.stop_after = stop_after


class _Enough(Exception):
    """Raised inside a forward pass that has given what was asked for."""


# A context variable, because a worker thread may run the same module at the same time.
_TAKING: ContextVar[_Taken | None] = ContextVar("taking", default=None)


def _take(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
    taken = _TAKING.get()
    if taken is None:
        return
    index = int(module.stage_index)  # type: ignore[arg-type]
    taken.maps[index] = first_of(output)
    if taken.stop_after == index:
        raise _Enough


class FilterBank(nn.Module):
    """Colours and edges at stride 4, for a detector where the network shows no map of its own: 9 fixed channels."""

    width = 9

    def forward(self, x: Tensor) -> Tensor:
        down = F.avg_pool2d(x, 4, ceil_mode=True)
        across = F.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1))
        along = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
        edges = [F.avg_pool2d(part.abs(), 4, ceil_mode=True) for part in (across, along)]
        return torch.cat([down, *edges], 1)


class ModuleSegmenter(Segmenter):
    """Wraps a module whose stages were discovered; its own code is not touched.

    Parameters keep their names below ``inner.``. Stage maps are read by hooks on the last module of each stage, and
    ``encode`` stops there. Where no stage was found, the first map is a `FilterBank` and the only module is the whole.

    Args:
        inner: Maps normalised frames to logits.
        classes: Outputs.
        what: What to call it in errors.
        light_width: Channels inside the light head.
        mean: Channel means of its input.
        std: Channel standard deviations of its input.
        found: What was discovered; discovers it when None.
    """

    def __init__(
        self,
        inner: nn.Module,
        what: str,
        *,
        light_width: int = 64,
        mean: Triple = IMAGENET_MEAN,
        std: Triple = IMAGENET_STD,
        found: Discovery | None = None,
    ) -> None:
        found = discover(inner, what) if found is None else found
        width = found.stages[0].width if found.stages else FilterBank.width
        light = LightHead(width, light_width, found.classes)
        light.apply(init_weights)
        super().__init__([], nn.Identity(), light, mean, std, found.divisor)
        self.inner, self.what, self.found = inner, what, found
        self.class_groups: tuple[tuple[int, ...], ...] | None = None
        self.bank = None if found.stages else FilterBank()
        for index, stage in enumerate(found.stages):
            tap = inner.get_submodule(stage.units[-1])
            tap.stage_index = index  # type: ignore[assignment]
            tap.register_forward_hook(_take)
        for name in found.single_value_norms:
            inner.get_submodule(name).keeps_source_statistics = True  # type: ignore[assignment]
        self._unused = frozenset(found.unused)
        self._taken_sizes: set[tuple[int, int]] = set()
        self._owner = {name: self._stage_of(name) for name, _ in inner.named_parameters()}

    def _stage_of(self, parameter: str) -> int:
        """Index of the stage that runs a parameter; the number of stages for the head."""
        for index, stage in enumerate(self.found.stages):
            if any(parameter.startswith(unit + ".") for unit in stage.units):
                return index
        return self._unnamed(parameter)

    def _unnamed(self, parameter: str) -> int:
        """A parameter that no unit holds (a position embedding, say) goes with the units beside it."""
        parent = parameter.rpartition(".")[0]
        while True:
            for index, stage in enumerate(self.found.stages):
                if any(unit.startswith(parent + "." if parent else "") for unit in stage.units) and parent:
                    return index
            if not parent:
                return len(self.found.stages)
            parent = parent.rpartition(".")[0]

    def encode(self, x: Tensor, stages: int | None = None) -> tuple[Tensor, ...]:
        """Stage maps of a normalised frame, the first ``stages`` of them (all by default)."""
        if self.bank is not None:
            return (self.bank(x),)
        count = len(self.found.stages) if stages is None else stages
        return self._run(x, count - 1)[1]

    def _run(self, x: Tensor, stop_after: int | None) -> tuple[Any, tuple[Tensor, ...]]:
        taken = _Taken(stop_after)
        token = _TAKING.set(taken)
        output = None
        size = (int(x.shape[-2]), int(x.shape[-1]))
        try:
            output = self.inner(x)
            self._taken_sizes.add(size)
        except _Enough:
            pass
        except Exception as error:
            if size in self._taken_sizes or is_out_of_memory(error):
                raise
            raise UserError(
                f"{self.what}: its own code fails on frames of {size[0]}x{size[1]}: {first_line(error)}; "
                f"take another --size, or mend its forward"
            ) from error
        finally:
            _TAKING.reset(token)
        return output, tuple(self._as_map(taken.maps[index], index, size) for index in sorted(taken.maps))

    def _as_map(self, found: Tensor, index: int, size: tuple[int, int]) -> Tensor:
        stage = self.found.stages[index]
        grid = (-(-size[0] // stage.stride), -(-size[1] // stage.stride))
        if found.dim() == 3:
            return found[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
        return found.permute(0, 3, 1, 2) if stage.channels_last else found

    def forward(self, frames: Tensor) -> Segmentation:
        """Segments ``frames``: (B, 3, H, W) float32 RGB in [0, 1], any H and W."""
        x, size, padded = self.normalise(frames)
        output, features = self._run(x, None)
        if self.bank is not None:
            features = (self.bank(x),)
        logits = logits_of(output, self.what)
        if self.class_groups is not None:
            logits = merged(logits, self.class_groups)
        return Segmentation(logits, features, size, padded)

    def first_stage(self) -> nn.Module:
        """The whole: its first stage is a part of its own forward pass."""
        return self.inner

    @property
    def stage_count(self) -> int:
        """Number of modules that a suffix scope chooses among."""
        return max(1, len(self.found.stages))

    def stage_parameters(self, index: int) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of stage ``index``; all of them where no stage was found."""
        for name, parameter in self.inner.named_parameters():
            if name not in self._unused and (not self.found.stages or self._owner[name] == index):
                yield PREFIX + name, parameter

    def module_parameters(self, index: int) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of stage ``index``: no projection of the head belongs to it alone."""
        yield from self.stage_parameters(index)

    def head_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that run after the last stage."""
        for name, parameter in self.inner.named_parameters():
            if name not in self._unused and self.found.stages and self._owner[name] == len(self.found.stages):
                yield PREFIX + name, parameter

    def learnable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter that a prediction comes from."""
        for name, parameter in self.inner.named_parameters():
            if name not in self._unused:
                yield PREFIX + name, parameter
