"""Encoders of the `timm` package as ordered stages at strides 4, 8, 16 and 32, whatever their own layout.

Three layouts are known: a list of modules run one after the other (ResNet, ConvNeXt, Swin, PVT), a stem before blocks
(EfficientNet, MobileNetV3), and a plain transformer of one scale (ViT, MAE, BEiT), which gets a small feature pyramid.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.networks.hub import fetch
from online_uda.networks.weights_file import WEIGHTS_FILE

STRIDES = (4, 8, 16, 32)
# Families whose stages end in an unnormalised residual stream.
_BARE_ENDINGS = ("convnext", "swin")


@dataclass(frozen=True)
class StagedEncoder:
    """An encoder cut into stages.

    Attributes:
        stages: In order; see `online_uda.networks.segmenter.Segmenter`.
        widths: Channels of the stages' maps.
        mean: Channel means that it expects of its input.
        std: Channel standard deviations.
        divisor: Its input must be a multiple of this.
    """

    stages: list[nn.Module]
    widths: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    divisor: int = 4


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ListStage(nn.Module):
    """Modules run one after the other; maps between stages are ``(B, C, H, W)``, channels last in memory for NHWC.

    Args:
        modules: By their names in the encoder.
        width: Channels of the map.
        nhwc_in: Whether the modules expect ``(B, H, W, C)``.
        nhwc_out: Whether they return it.
        norm: Whether the map for the heads is normalised first; what goes to the next stage never is.
    """

    def __init__(self, modules: dict[str, nn.Module], width: int, nhwc_in: bool, nhwc_out: bool, norm: bool) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for name, module in modules.items():
            self.body.add_module(name, module)
        self.nhwc_in, self.nhwc_out = nhwc_in, nhwc_out
        self.norm: nn.Module = ChannelNorm(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x.permute(0, 2, 3, 1) if self.nhwc_in else x)
        return x.permute(0, 3, 1, 2) if self.nhwc_out else x

    def tap(self, x: Tensor) -> Tensor:
        """The map for the heads."""
        return self.norm(x)

    def leave_bare(self) -> None:
        """Drops what only a head would need, where no head reads the map."""
        self.norm = nn.Identity()


class Patches(nn.Module):
    """What a plain transformer does before its blocks: patches, class token, positions. Any size divisible by a patch.

    BEiT's relative positions belong to one grid; its frames are brought to ``fixed`` first.
    """

    def __init__(self, model: Any, fixed: tuple[int, int] | None) -> None:
        super().__init__()
        self.fixed, self.prefix = fixed, int(model.num_prefix_tokens)
        self.patch_embed, self.pos_drop = model.patch_embed, model.pos_drop
        self.norm_pre = getattr(model, "norm_pre", nn.Identity())
        self.cls_token, self.pos_embed = model.cls_token, model.pos_embed
        side = model.patch_embed.patch_size
        self.patch = (int(side[0]), int(side[1]))
        self.grid = tuple(model.patch_embed.grid_size)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.fixed is not None:
            x = F.interpolate(x, self.fixed, mode="bilinear", align_corners=False, antialias=True)
        grid = (int(x.shape[-2]) // self.patch[0], int(x.shape[-1]) // self.patch[1])
        tokens = self.patch_embed(x)
        tokens = tokens.flatten(1, -2)  # (B, H, W, C) where the size is dynamic
        positions = self.pos_embed
        if self.cls_token is not None:
            tokens = _with_prefix(self.cls_token, tokens)
        if positions is not None:
            tokens = tokens + self._resampled(positions, grid)
        return self.norm_pre(self.pos_drop(tokens)), grid

    def _resampled(self, positions: Tensor, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return positions
        from timm.layers.pos_embed import resample_abs_pos_embed

        return resample_abs_pos_embed(positions, list(grid), list(self.grid), num_prefix_tokens=self.prefix)


def _with_prefix(token: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([token.expand(tokens.shape[0], -1, -1), tokens], 1)


class PlainStage(nn.Module):
    """A quarter of a plain transformer's blocks; its map is brought to its stride by a small pyramid (as in ViTDet).

    Passes on tokens and their grid.
    """

    def __init__(self, patches: Patches | None, blocks: Sequence[nn.Module], width: int, scale: float) -> None:
        super().__init__()
        self.patches = patches
        self.blocks = nn.ModuleList(blocks)
        self.norm: nn.Module = nn.LayerNorm(width)
        self.resize = _resize(width, scale)
        self.prefix = 0

    def forward(self, x: Any) -> tuple[Tensor, tuple[int, int]]:
        tokens, grid = x if self.patches is None else self.patches(x)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens, grid

    def tap(self, x: tuple[Tensor, tuple[int, int]]) -> Tensor:
        """The map for the heads."""
        tokens, grid = x
        cells = self.norm(tokens[:, self.prefix :]).transpose(1, 2).unflatten(2, grid)
        return self.resize(cells)

    def leave_bare(self) -> None:
        """Drops what only a head would need, where no head reads the map."""
        self.norm, self.resize = nn.Identity(), nn.Identity()


def _resize(width: int, scale: float) -> nn.Module:
    if scale == 4.0:
        first = nn.ConvTranspose2d(width, width // 2, 2, 2)
        return nn.Sequential(first, nn.GELU(), nn.ConvTranspose2d(width // 2, width, 2, 2))
    if scale == 2.0:
        return nn.ConvTranspose2d(width, width, 2, 2)
    return nn.Identity() if scale == 1.0 else nn.MaxPool2d(2)


def timm_encoder(
    name: str, *, pretrained: bool = False, drop_path: float = 0.0, image_size: tuple[int, int] | None = None
) -> StagedEncoder:
    """Builds a timm model and cuts it into four stages (seed torch before the call).

    Args:
        name: As `timm.create_model` takes it.
        pretrained: Download trained weights; without, they are random.
        drop_path: Largest stochastic-depth rate.
        image_size: Frames are brought to this size, only for encoders whose positions belong to one size (BEiT).

    Raises:
        UserError: Unknown name, a layout that cannot be cut, or a download that fails.
    """
    refuse_unknown(name)
    family = name.partition(".")[0]
    if image_size is not None and not family.startswith("beit"):
        raise UserError(f"encoder timm:{name}: takes frames of any size; drop image_size")
    plain = family.startswith(("vit_", "deit_", "deit3_", "beit"))
    arguments: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path > 0.0 else {}
    if plain:
        fixed = family.startswith("beit")
        if fixed and image_size is not None:
            arguments["img_size"] = image_size
        elif not fixed:
            arguments["dynamic_img_size"] = True
        model = _create(name, pretrained, num_classes=0, **arguments)
        return _cut_plain(model, name, fixed)
    if family.startswith("swin"):
        arguments["strict_img_size"] = False
    reductions = _create(name, False, features_only=True, meta=True, **arguments).feature_info.reduction()
    indices = tuple(max(i for i, found in enumerate(reductions) if found == s) for s in STRIDES if s in reductions)
    if len(indices) != len(STRIDES):
        raise UserError(f"encoder timm:{name}: has maps at strides {reductions}, not at each of {list(STRIDES)}")
    model = _create(name, pretrained, features_only=True, out_indices=indices, **arguments)
    return _cut_list(model, name, family)


def refuse_unknown(name: str) -> None:
    """Raises `UserError` for a name that timm does not have."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"encoder timm:{name}: unknown; {hint}timm.list_models() names all")


def _create(name: str, pretrained: bool, *, meta: bool = False, **arguments: Any) -> Any:
    import timm

    if pretrained:
        arguments |= _weights_of(name)
    try:
        with torch.device("meta" if meta else "cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:  # timm wraps what its models and the hub raise in many types
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        if pretrained:
            raise UserError(
                f"encoder timm:{name}: its trained weights cannot be had ({reason}); go online, or use --init random"
            ) from None
        raise UserError(f"encoder timm:{name}: cannot serve as an encoder ({reason})") from None


def _weights_of(name: str) -> dict[str, Any]:
    """What tells timm which file to read; none where its weights lie elsewhere than on the Hugging Face hub."""
    import timm

    found = timm.get_pretrained_cfg(name)
    if found is None or not found.hf_hub_id:
        return {}
    files = (found.hf_hub_filename,) if found.hf_hub_filename else (WEIGHTS_FILE, "pytorch_model.bin")
    folder = fetch(
        found.hf_hub_id, (files,), f"encoder timm:{name}: its trained weights", "go online, or use --init random"
    )
    file = next(folder / file for file in files if (folder / file).is_file())
    return {"pretrained_cfg_overlay": {"file": str(file), "custom_load": False}}


def _statistics(model: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    mean, std = config.get("mean", (0.485, 0.456, 0.406)), config.get("std", (0.229, 0.224, 0.225))
    return tuple(mean), tuple(std)  # type: ignore[return-value]


def _flat(model: Any) -> Iterator[tuple[str, str, nn.Module]]:
    """``(name, name in feature_info, module)`` in order of use, containers of stages opened."""
    listed = isinstance(model, nn.ModuleDict)
    for name, module in model.named_children():
        if name == "blocks" and isinstance(module, nn.Sequential):
            for part, block in module.named_children():
                yield f"{name}_{part}", f"{name}.{part}", block
        else:
            yield name, name.replace("_", ".") if listed and name[-1].isdigit() and "_" in name else name, module


def _cut_list(model: Any, name: str, family: str) -> StagedEncoder:
    ends = [str(info["module"]) for info in model.feature_info.get_dicts()]
    widths = tuple(int(width) for width in model.feature_info.channels())
    if not isinstance(model, nn.ModuleDict) and not hasattr(model, "conv_stem"):
        raise UserError(f"encoder timm:{name}: its layout ({type(model).__name__}) cannot be cut into stages")
    nhwc = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
    norm = family.startswith(_BARE_ENDINGS)
    stages: list[nn.Module] = []
    members: dict[str, nn.Module] = {}
    for key, origin, module in _flat(model):
        members[key] = module
        if len(stages) < len(ends) and ends[len(stages)] in (origin, key):
            stages.append(ListStage(members, widths[len(stages)], nhwc and bool(stages), nhwc, norm))
            members = {}
    if len(stages) != len(ends):
        raise UserError(f"encoder timm:{name}: its layout cannot be cut into stages (no module {ends[len(stages)]})")
    return StagedEncoder(stages, widths, *_statistics(model))


def _cut_plain(model: Any, name: str, fixed: bool) -> StagedEncoder:
    blocks = list(model.blocks)
    unsupported = [part for part in ("reg_token", "rel_pos_bias") if getattr(model, part, None) is not None]
    if unsupported or len(blocks) < len(STRIDES) or getattr(model, "no_embed_class", False):
        what = unsupported[0] if unsupported else f"{len(blocks)} blocks"
        raise UserError(f"encoder timm:{name}: a plain transformer with {what} is not supported; take another ViT")
    side = int(model.patch_embed.patch_size[0])
    if side != 16:
        raise UserError(f"encoder timm:{name}: patches of {side} pixels; the pyramid needs patches of 16")
    width = int(model.embed_dim)
    patches = Patches(model, tuple(model.patch_embed.img_size) if fixed else None)
    cuts = [round(len(blocks) * part / len(STRIDES)) for part in range(len(STRIDES) + 1)]
    stages: list[nn.Module] = []
    for index, stride in enumerate(STRIDES):
        stage = PlainStage(patches if index == 0 else None, blocks[cuts[index] : cuts[index + 1]], width, side / stride)
        stage.prefix = patches.prefix
        stages.append(stage)
    return StagedEncoder(stages, (width,) * len(STRIDES), *_statistics(model), divisor=side)
