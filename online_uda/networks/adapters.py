"""Small modules beside the layers of a network that learn in their place, inserted without touching its code.

An adapter is a submodule ``adapter`` of the layer it serves and a forward hook that adds its output. It starts with an
output of zero, so that inserting changes nothing. Linear kinds fold exactly into the layer's weight:

* ``lora``: ``W + s B A`` of rank r (Hu et al., 2022), on linear layers and dense convolutions;
* ``two_rank``: ``W + s_l B_l A_l + s_h B_h A_h`` of a low and a high rank (ViDA, specs/methods.md 3);
* ``conv``: a 1x1 convolution beside a larger one (parallel residual adapters, Rebuffi et al., 2018);
* ``adaptformer``: a bottleneck with a ReLU beside or behind an MLP (Chen et al., 2022), which does not fold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.weights_file import difference

Kind = Literal["lora", "two_rank", "conv", "adaptformer"]
MARK = ".adapter."
FORMAT = "online_uda.adapters/1"
_DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "lora": ("*.query", "*.value", "*.qkv", "*.q", "*.v", "*.kv", "*.q_proj", "*.v_proj"),
    "two_rank": ("*.query", "*.value", "*.qkv", "*.q", "*.v", "*.kv", "*.q_proj", "*.v_proj"),
    "conv": ("*",),
    "adaptformer": ("*.ffn", "*.mlp"),
}


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Which adapters, where.

    Attributes:
        kind: See the module's docstring.
        rank: Of ``lora`` and of the low part of ``two_rank``; width of AdaptFormer's bottleneck.
        high_rank: Of the high part of ``two_rank``; a layer's own width bounds it.
        scale: Factor on the adapter's output (the low part's).
        high_scale: Factor on the high part's.
        placement: AdaptFormer beside the MLP (``parallel``) or behind it (``sequential``).
        targets: Patterns of module names; empty takes attention projections, convolutions or MLPs of the encoder.
    """

    kind: Kind = "lora"
    rank: int = 4
    high_rank: int = 32
    scale: float = 1.0
    high_scale: float = 1.0
    placement: Literal["parallel", "sequential"] = "parallel"
    targets: tuple[str, ...] = ()


class LowRank(nn.Module):
    """``up(down(x))`` through ``rank`` channels; a convolution's ``down`` has its kernel, stride and padding."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        if isinstance(layer, nn.Linear):
            rank = min(rank, layer.in_features, layer.out_features)
            self.down: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.up: nn.Module = nn.Linear(rank, layer.out_features, bias=False)
        else:
            rank = min(rank, layer.in_channels, layer.out_channels)
            kernel, stride = (layer.kernel_size[0], layer.kernel_size[1]), (layer.stride[0], layer.stride[1])
            dilation = (layer.dilation[0], layer.dilation[1])
            padding: Any = layer.padding
            self.down = nn.Conv2d(layer.in_channels, rank, kernel, stride, padding, dilation, bias=False)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class Scaled(nn.Module):
    """One or two low-rank parts, or a 1x1 convolution, each times its factor."""

    def __init__(self, parts: Mapping[str, nn.Module], scales: Sequence[float]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.parts, self.scales = tuple(parts), tuple(scales)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [scale * self.get_submodule(part)(x) for part, scale in zip(self.parts, self.scales, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs[0] + outputs[1]


class Bottleneck(nn.Module):
    """AdaptFormer: down, ReLU, up (zero at first), over the last axis, times a factor."""

    def __init__(self, width: int, rank: int, scale: float) -> None:
        super().__init__()
        self.down, self.up, self.scale = nn.Linear(width, rank), nn.Linear(rank, width), scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up(torch.relu(self.down(x)))


def _beside(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + module.get_submodule("adapter")(inputs[0])


def _behind(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + module.get_submodule("adapter")(output)


def insert_adapters(network: Segmenter, config: AdapterConfig, seed: int) -> list[str]:
    """Inserts adapters into ``network``, which then gives the same logits as before.

    Args:
        network: Changed in place; nothing but its adapters is.
        config: Kind, sizes and targets.
        seed: Of the initial weights.

    Returns:
        Names of the layers served, in order.

    Raises:
        UserError: No layer fits the targets.
    """
    helpers = ("light_head", "head.auxiliary")
    names = {name: module for name, module in network.named_modules() if not name.startswith(helpers)}
    patterns = config.targets or _DEFAULT_TARGETS[config.kind]
    chosen = _called(network, _chosen(network, names, patterns, config))
    if not chosen and not config.targets and config.kind in ("lora", "two_rank"):
        chosen = _called(network, _chosen(network, names, ("*",), config))  # no attention, or one that hides its layers
    if not chosen:
        shown = ", ".join(patterns[:4])
        raise UserError(
            f"adapters: no layer for {config.kind} among {shown}; adapters.targets takes patterns of module names, "
            f"such as {next(iter(list(names)[5:6]), '*')}"
        )
    device, dtype = _place(network)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for name in chosen:
            layer = names[name]
            layer.add_module("adapter", _adapter(layer, config).to(device=device, dtype=dtype))
            layer.register_forward_hook(_behind if config.placement == "sequential" else _beside)
    return chosen


def _place(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    first = next(network.parameters())
    return first.device, first.dtype


def _chosen(
    network: Segmenter, names: Mapping[str, nn.Module], patterns: Sequence[str], config: AdapterConfig
) -> list[str]:
    head = {name.rpartition(".")[0] for name, _ in network.head_parameters()}
    found = []
    for name, module in names.items():
        in_head = name in head or name.startswith("head")
        if not (config.targets == () and in_head) and any(fnmatchcase(name, pattern) for pattern in patterns):
            found += [name] if _fits(module, config.kind) else []
    return found


def _fits(module: nn.Module, kind: str) -> bool:
    if kind == "adaptformer":
        return _mlp_width(module) is not None
    dense = isinstance(module, nn.Conv2d) and module.groups == 1
    if kind == "conv":
        return isinstance(module, nn.Conv2d) and _keeps_centre(module)
    return isinstance(module, nn.Linear) or dense


def _keeps_centre(layer: nn.Conv2d) -> bool:
    """Whether a 1x1 convolution of the same stride reads the centre of each window."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return False
    same = all(
        kernel % 2 == 1 and padding == dilation * (kernel // 2)
        for kernel, padding, dilation in zip(layer.kernel_size, layer.padding, layer.dilation, strict=True)
    )
    return same and max(layer.kernel_size) > 1


def _mlp_width(module: nn.Module) -> int | None:
    linear = [part for part in module.children() if isinstance(part, nn.Linear)]
    if len(linear) != 2 or linear[0].in_features != linear[1].out_features:
        return None
    return int(linear[0].in_features)


def _called(network: Segmenter, names: Sequence[str]) -> list[str]:
    """Those that run when the network does, in order; some only lend their weights, which no hook can see."""
    seen: set[str] = set()
    handles = []
    for name in names:

        def hook(*_: Any, name: str = name) -> None:
            seen.add(name)

        handles.append(network.get_submodule(name).register_forward_hook(hook))
    training = network.training
    device, dtype = _place(network)
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, 64, 64, device=device, dtype=dtype))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return [name for name in names if name in seen]


def _adapter(layer: nn.Module, config: AdapterConfig) -> nn.Module:
    if config.kind == "adaptformer":
        width = _mlp_width(layer)
        assert width is not None
        return Bottleneck(width, min(config.rank, width), config.scale)
    if config.kind == "conv":
        assert isinstance(layer, nn.Conv2d)
        stride = (layer.stride[0], layer.stride[1])
        one = nn.Conv2d(layer.in_channels, layer.out_channels, 1, stride, groups=layer.groups, bias=False)
        nn.init.zeros_(one.weight)
        return Scaled({"one": one}, [config.scale])
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    if config.kind == "two_rank":
        parts = {"low": LowRank(layer, config.rank), "high": LowRank(layer, config.high_rank)}
        return Scaled(parts, [config.scale, config.high_scale])
    return Scaled({"low": LowRank(layer, config.rank)}, [config.scale])


def adapter_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of adapters, by name."""
    for name, parameter in network.named_parameters():
        if MARK in name:
            yield name, parameter


def folded(state: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """A state dict with its adapters folded into the weights they serve, and without them.

    Raises:
        UserError: AdaptFormer's do not fold.
    """
    if config.kind == "adaptformer":
        raise UserError("adapters: AdaptFormer's bottleneck has a ReLU and cannot be folded into weights; use lora")
    plain = {name: tensor for name, tensor in state.items() if MARK not in name}
    scales = {"low": config.scale, "high": config.high_scale, "one": config.scale}
    with torch.no_grad():
        for name, tensor in state.items():
            layer, _, part = name.partition(MARK)
            if not part or part.endswith(".down.weight"):
                continue
            which = part.partition(".")[0]
            weight = plain[f"{layer}.weight"]
            if which == "one":
                change = _centred(tensor, weight)
            else:
                down = state[f"{layer}{MARK}{which}.down.weight"]
                change = (tensor.flatten(1) @ down.flatten(1)).view_as(weight)
            plain[f"{layer}.weight"] = weight + scales[which] * change
    return plain


def _centred(one: Tensor, weight: Tensor) -> Tensor:
    change = torch.zeros_like(weight)
    change[..., weight.shape[-2] // 2, weight.shape[-1] // 2] = one[..., 0, 0]
    return change


def merge_adapters(network: Segmenter, config: AdapterConfig) -> None:
    """Folds the adapters into the weights, and takes them and their hooks out.

    Raises:
        UserError: AdaptFormer's do not fold.
    """
    plain = folded(network.state_dict(), config)
    remove_adapters(network)
    network.load_state_dict(plain)


def remove_adapters(network: nn.Module) -> None:
    """Takes adapters and their hooks out; the weights they served are as they were."""
    for module in list(network.modules()):
        if "adapter" in module._modules:
            del module._modules["adapter"]
            for key, hook in list(module._forward_hooks.items()):
                if hook in (_beside, _behind):
                    del module._forward_hooks[key]


class FoldedView:
    """What an average of a network with adapters follows: its folded parameters under the plain network's names."""

    def __init__(self, network: Segmenter, config: AdapterConfig) -> None:
        self._network, self._config = network, config

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters of the plain network, folded."""
        yield from folded(dict(self._network.named_parameters()), self._config).items()

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The network's buffers."""
        yield from self._network.named_buffers()

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Tensor]:
        """Names that belong to the saved state; adapters are not among them."""
        return {name: tensor for name, tensor in self._network.state_dict(keep_vars=keep_vars).items()
                if MARK not in name}  # fmt: skip


def save_adapters(
    path: Path, network: nn.Module, config: AdapterConfig, statistics: Mapping[str, Tensor] | None = None
) -> None:
    """Writes the adapters alone, with what is needed to insert them again.

    Args:
        path: File to write.
        network: With adapters.
        config: What they were inserted with.
        statistics: BatchNorm buffers that moved with them, by name.

    Raises:
        UserError: There are none.
    """
    tensors = {name: parameter.detach().contiguous().cpu() for name, parameter in adapter_parameters(network)}
    if not tensors:
        raise UserError(f"{path}: the network has no adapters to save")
    tensors |= {name: buffer.detach().contiguous().cpu() for name, buffer in (statistics or {}).items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={"format": FORMAT, "adapters": json.dumps(asdict(config))})
    partial.chmod(0o644)
    partial.replace(path)


def load_adapters(path: Path, network: Segmenter) -> AdapterConfig:
    """Inserts the adapters of a file into ``network``.

    Raises:
        UserError: The file is no file of adapters, or they are of another network.
    """
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if meta.get("format") != FORMAT:
            raise UserError(f"{path}: holds no adapters (format {meta.get('format')!r}, expected {FORMAT!r})")
        config = TypeAdapter(AdapterConfig).validate_json(meta["adapters"])
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        raise UserError(f"{path}: not a readable file of adapters ({str(error).splitlines()[0][:120]})") from None
    insert_adapters(network, config, seed=0)
    buffers = {name: buffer for name, buffer in network.named_buffers() if name in tensors}
    lines = difference({**dict(adapter_parameters(network)), **buffers}, tensors)
    if lines:
        remove_adapters(network)
        raise UserError(f"{path}: adapters of another network; {'; '.join(lines)}")
    with torch.no_grad():
        for name, parameter in [*adapter_parameters(network), *buffers.items()]:
            parameter.copy_(tensors[name])
    return config
