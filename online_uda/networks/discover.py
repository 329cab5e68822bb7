"""Stages of a network that nobody wrote for us: found by running it once and watching its modules in order.

A module is opened until what is left changes the resolution by at most one step; the units so found, in the order they
ran, are grouped into stages by the stride of what they return. Tokens ``(B, N, C)`` count as maps where N fits a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.networks.module_output import first_of, logits_of

STRIDES = (1, 2, 4, 8, 16, 32, 64)
_PROBES = (
    (1, (67, 93)), (8, (72, 104)), (16, (80, 112)), (32, (96, 160)), (64, (128, 192)), (12, (84, 132)),
    (14, (126, 182)), (24, (120, 168)), (28, (140, 196)), (48, (144, 240)), (128, (128, 256)), (256, (256, 512)),
)  # fmt: skip
"""Divisors to try, each with a size that no larger one of its kind divides; those of patch sizes such as 14 last."""
_FEWEST_STAGES = 3


@dataclass(frozen=True)
class Stage:
    """A run of modules.

    Attributes:
        units: Their names, in the order they ran.
        stride: Of the map that the last one returns.
        width: Its channels.
        channels_last: Whether that map is ``(B, H, W, C)``.
    """

    units: tuple[str, ...]
    stride: int
    width: int
    channels_last: bool = False


@dataclass(frozen=True)
class Discovery:
    """What was found.

    Attributes:
        stages: Of the encoder, in order; empty where no module returns a usable map.
        classes: Channels of the logits.
        divisor: The network takes sizes that are multiples of it.
        single_value_norms: BatchNorm layers that see one value a channel of a frame, and cannot be trained on one.
        unused: Parameters that no logit depends on, such as those of an auxiliary head.
    """

    stages: tuple[Stage, ...]
    classes: int
    divisor: int
    single_value_norms: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass
class _Trace:
    size: tuple[int, int]
    order: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    single: list[str] = field(default_factory=list)

    def parent(self, name: str) -> str:
        """The nearest module around ``name`` that ran itself; containers such as ModuleList never do."""
        while name:
            name = name.rpartition(".")[0]
            if name in self.shapes:
                break
        return name


def discover(module: nn.Module, what: str) -> Discovery:
    """Runs ``module`` in eval mode on frames of a few sizes and describes it; its mode comes back.

    Args:
        module: Maps normalised frames ``(B, 3, H, W)`` float32 to logits, see `logits_of`.
        what: What to call it in errors.

    Raises:
        UserError: It fails on every size, or returns no logits.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise UserError(f"{what}: is compiled by TorchScript, so its parts cannot be watched; return the module itself")
    training = module.training
    module.eval()
    try:
        divisor = _smallest_divisor(module, what)
        names = {part: name for name, part in module.named_modules()}
        with torch.no_grad():
            trace, output = _watch(module, names, _watched(divisor))
        logits = logits_of(output, what)
        _check_logits(logits, trace.size, what)
        units = list(_units(module, "", trace, 1))
        unused = _unused(module, what, dict(_PROBES)[divisor])
        return Discovery(tuple(_stages(module, units)), int(logits.shape[1]), divisor, tuple(trace.single), unused)
    finally:
        module.train(training)


def _watched(divisor: int) -> tuple[int, int]:
    """A size of multiples of ``divisor`` at which strides can be told apart."""
    height, width = (-(-side // divisor) * divisor for side in (128, 192))
    return height, width if width > height else width + divisor


def _check_logits(logits: Tensor, size: tuple[int, int], what: str) -> None:
    if not logits.isfinite().all():
        raise UserError(f"{what}: its logits for a black frame are not finite")
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        raise UserError(f"{what}: returned probabilities, which add up to 1; return the logits before the softmax")
    if len(logits) != 1 or abs(logits.shape[-2] / logits.shape[-1] - size[0] / size[1]) > 0.1:
        raise UserError(
            f"{what}: returned logits {tuple(logits.shape)} for frames (1, 3, {size[0]}, {size[1]}); "
            f"expected a map of the frame's proportions"
        )


def _smallest_divisor(module: nn.Module, what: str) -> int:
    failure: Exception | None = None
    for divisor, (height, width) in _PROBES:
        try:
            with torch.no_grad():
                output = module(torch.zeros(1, 3, height, width))
        except Exception as error:  # whatever a stranger's code raises on a size it cannot take
            failure = error
            continue
        logits = logits_of(output, what)
        if logits.shape[-2] <= height and logits.shape[-1] <= width:
            return divisor
        last = ", with the channels last" if logits.shape[1:3] == (height, width) else ""
        failure = ValueError(f"its logits {tuple(logits.shape)} are larger than the frame{last}")
    assert failure is not None
    tried = f"{_PROBES[0][1][0]}x{_PROBES[0][1][1]} to {height}x{width}"
    raise UserError(
        f"{what}: fails on frames (1, 3, H, W) of every size tried ({tried}): {first_line(failure)}; it has to take "
        f"frames of any size, or of multiples of a patch: resize inside its forward where it cannot"
    )


def first_line(error: Exception) -> str:
    """What an exception says, short enough for one line."""
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__


def _unused(module: nn.Module, what: str, size: tuple[int, int]) -> tuple[str, ...]:
    parameters = dict(module.named_parameters())
    flags = [parameter.requires_grad for parameter in parameters.values()]
    module.requires_grad_(True)
    try:
        with torch.enable_grad():  # whoever loads a network may not want gradients
            logits = logits_of(module(torch.zeros(1, 3, *size)), what)
            total = logits.sum()
        if not logits.requires_grad:
            raise UserError(
                f"{what}: its logits depend on no parameter, so nothing can learn; is there a no_grad in it?"
            )
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    except RuntimeError as error:
        raise UserError(f"{what}: no gradient passes through it, so nothing can learn: {first_line(error)}") from None
    finally:
        for parameter, flag in zip(parameters.values(), flags, strict=True):
            parameter.requires_grad_(flag)
    return tuple(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)


def _watch(module: nn.Module, names: dict[nn.Module, str], size: tuple[int, int]) -> tuple[_Trace, Any]:
    trace = _Trace(size)

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if name in trace.shapes:
                trace.order.remove(name)
            trace.order.append(name)
            first = first_of(output)
            trace.shapes[name] = tuple(first.shape) if isinstance(first, Tensor) else None
            batch_norm = isinstance(part, nn.modules.batchnorm._BatchNorm)
            if batch_norm and inputs and inputs[0].numel() == inputs[0].shape[0] * inputs[0].shape[1]:
                trace.single.append(name)

        return hook

    handles = [part.register_forward_hook(hook_of(name)) for part, name in names.items()]
    try:
        return trace, module(torch.zeros(1, 3, *size))
    finally:
        for handle in handles:
            handle.remove()


def _stride(shape: tuple[int, ...] | None, size: tuple[int, int]) -> int | None:
    """Stride of a map or of tokens, None where the shape fits no grid."""
    for stride in STRIDES:
        grid = (-(-size[0] // stride), -(-size[1] // stride))
        if shape is not None and len(shape) == 4 and (shape[2:] == grid or shape[1:3] == grid):
            return stride
        if shape is not None and len(shape) == 3 and 0 <= shape[1] - grid[0] * grid[1] <= 1:
            return stride
    return None


def _channels(shape: tuple[int, ...] | None, stride: int | None, size: tuple[int, int]) -> tuple[int, bool]:
    """Channels of a map or of tokens, and whether they are a map's last axis."""
    if shape is None or stride is None:
        return 0, False
    if len(shape) == 3:
        return shape[-1], False
    last = shape[2:] != (-(-size[0] // stride), -(-size[1] // stride))
    return shape[-1 if last else 1], last


@dataclass(frozen=True)
class _Unit:
    name: str
    stride: int | None
    width: int
    channels_last: bool
    leaf: bool
    weighted: bool


def _units(module: nn.Module, name: str, trace: _Trace, before: int) -> Iterator[_Unit]:
    """Opens a module until every part changes the stride by one step at most; parts come in the order they ran."""
    part = module.get_submodule(name)
    shape = trace.shapes.get(name)
    stride = _stride(shape, trace.size)
    children = [child for child in trace.order if child and trace.parent(child) == name]
    small = stride is not None and (stride <= 2 * before or stride <= 4)
    if name and (small or not children):
        # A leaf, or something that takes one step: what it does inside is its own affair.
        weighted = any(True for _ in part.parameters())
        yield _Unit(name, stride, *_channels(shape, stride, trace.size), not children, weighted)
        return
    for child in children:
        found = list(_units(module, child, trace, before))
        yield from found
        before = next((unit.stride for unit in reversed(found) if unit.stride is not None), before)


def _stages(module: nn.Module, units: list[_Unit]) -> Iterator[Stage]:
    encoder = _encoder(units)
    cuts = _cuts(encoder, by_width=False)
    if len(cuts) < _FEWEST_STAGES:
        wider = _cuts(encoder, by_width=True)
        cuts = wider if len(wider) <= 6 else cuts
    start = 0
    for end in cuts:
        last = encoder[end]
        assert last.stride is not None
        yield Stage(tuple(unit.name for unit in encoder[start : end + 1]), last.stride, last.width, last.channels_last)
        start = end + 1


def _encoder(units: list[_Unit]) -> list[_Unit]:
    """Units before the head: those of the first branch where it covers two strides, else those before growth."""
    if not units:
        return []
    branch = units[0].name.partition(".")[0]
    own = [unit for unit in units if unit.name.partition(".")[0] == branch]
    strides = {unit.stride for unit in own if unit.stride is not None and unit.stride >= 4}
    weighted = [index for index, unit in enumerate(units) if unit.weighted]
    chosen = own if len(own) < len(units) and len(strides) >= 2 else units[: weighted[-1] if weighted else 0]
    highest, kept = 0, []
    for unit in chosen:
        if unit.stride is not None and unit.stride < highest:
            break
        highest = max(highest, unit.stride or 0)
        kept.append(unit)
    return kept


def _cuts(units: list[_Unit], by_width: bool) -> list[int]:
    """Indices of the units that end a stage; nothing below stride 4 is one of its own."""
    mapped = [index for index, unit in enumerate(units) if unit.stride is not None]
    cuts = []
    for here, after in zip(mapped, [*mapped[1:], None][: len(mapped)], strict=True):
        unit = units[here]
        assert unit.stride is not None
        if after is None:
            cuts.append(here)
            continue
        following = units[after]
        steps = following.stride != unit.stride
        widens = by_width and not (unit.leaf or following.leaf) and following.width != unit.width
        if unit.stride >= 4 and (steps or widens):
            cuts.append(here)
    return [cut for cut in cuts if (units[cut].stride or 0) >= 4]
