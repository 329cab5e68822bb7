"""Files of weights from elsewhere: whose names they use, which architecture that says, and our names for them.

A dialect is told by its names alone. Sizes are read off the shapes; what shapes cannot tell (the number of attention
heads) is as published.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from online_uda.errors import UserError
from online_uda.networks.architecture import AnyConfig, ModuleConfig, NetworkConfig
from online_uda.networks.hf_segformer import HF_NORM_EPS, from_hf, is_hf
from online_uda.networks.mit import MIT_VARIANTS, MiTConfig
from online_uda.networks.segmenter import SegformerConfig
from online_uda.networks.spec import adapters_alone, holds_adapters

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Translation:
    """A foreign state dict in our names.

    Attributes:
        dialect: Whose names it used.
        weights: By our names.
        unknown: Names that no rule knows.
        config: The architecture, with the number of classes in the file; None where only an encoder was found.
        encoder: The encoder of a file that holds nothing else.
        note: What was left out on purpose.
    """

    dialect: str
    weights: dict[str, Tensor]
    unknown: tuple[str, ...]
    config: AnyConfig | None
    encoder: MiTConfig | None = None
    note: str = ""


def _mit(prefix: str) -> Rules:
    """Names of the original MiT code below ``prefix``: 1-based stages."""
    block = prefix + r"block(\d)\.(\d+)\."
    return (
        (prefix + r"patch_embed(\d)\.(proj|norm)\.(.+)", r"stages.<\1>.embed.\2.\3"),
        (prefix + r"norm(\d)\.(.+)", r"stages.<\1>.norm.\2"),
        (block + r"norm([12])\.(.+)", r"stages.<\1>.blocks.\2.norm\3.\4"),
        (block + r"attn\.q\.(.+)", r"stages.<\1>.blocks.\2.attention.query.\3"),
        (block + r"attn\.kv\.(.+)", r"stages.<\1>.blocks.\2.attention.key+value.\3"),
        (block + r"attn\.proj\.(.+)", r"stages.<\1>.blocks.\2.attention.out.\3"),
        (block + r"attn\.sr\.(.+)", r"stages.<\1>.blocks.\2.attention.reduce.\3"),
        (block + r"attn\.norm\.(.+)", r"stages.<\1>.blocks.\2.attention.norm.\3"),
        (block + r"mlp\.fc1\.(.+)", r"stages.<\1>.blocks.\2.ffn.expand.\3"),
        (block + r"mlp\.dwconv\.dwconv\.(.+)", r"stages.<\1>.blocks.\2.ffn.depthwise.\3"),
        (block + r"mlp\.fc2\.(.+)", r"stages.<\1>.blocks.\2.ffn.project.\3"),
    )


_ENCODER: Rules = _mit("")
_NVLABS: Rules = (
    *_mit(r"backbone\."),
    (r"decode_head\.linear_c(\d)\.proj\.(.+)", r"head.linears.<\1>.\2"),
    (r"decode_head\.linear_fuse\.conv\.(.+)", r"head.fuse.\1"),
    (r"decode_head\.linear_fuse\.bn\.(.+)", r"head.norm.\1"),
    (r"decode_head\.linear_pred\.(.+)", r"head.classifier.\1"),
)
_SMP: Rules = (
    *_mit(r"encoder\."),
    (r"decoder\.mlp_stage\.0\.linear\.(.+)", r"head.linears.3.\1"),
    (r"decoder\.mlp_stage\.1\.linear\.(.+)", r"head.linears.2.\1"),
    (r"decoder\.mlp_stage\.2\.linear\.(.+)", r"head.linears.1.\1"),
    (r"decoder\.mlp_stage\.3\.linear\.(.+)", r"head.linears.0.\1"),
    (r"decoder\.fuse_stage\.0\.(.+)", r"head.fuse.\1"),
    (r"decoder\.fuse_stage\.1\.(.+)", r"head.norm.\1"),
    (r"segmentation_head\.0\.(.+)", r"head.classifier.\1"),
)
_MMSEG_BLOCK = r"backbone\.layers\.(\d)\.1\.(\d+)\."
_MMSEG: Rules = (
    (r"backbone\.layers\.(\d)\.0\.projection\.(.+)", r"stages.\1.embed.proj.\2"),
    (r"backbone\.layers\.(\d)\.0\.norm\.(.+)", r"stages.\1.embed.norm.\2"),
    (r"backbone\.layers\.(\d)\.2\.(.+)", r"stages.\1.norm.\2"),
    (_MMSEG_BLOCK + r"norm([12])\.(.+)", r"stages.\1.blocks.\2.norm\3.\4"),
    (_MMSEG_BLOCK + r"attn\.attn\.in_proj_(weight|bias)", r"stages.\1.blocks.\2.attention.query+key+value.\3"),
    (_MMSEG_BLOCK + r"attn\.attn\.out_proj\.(.+)", r"stages.\1.blocks.\2.attention.out.\3"),
    (_MMSEG_BLOCK + r"attn\.sr\.(.+)", r"stages.\1.blocks.\2.attention.reduce.\3"),
    (_MMSEG_BLOCK + r"attn\.norm\.(.+)", r"stages.\1.blocks.\2.attention.norm.\3"),
    (_MMSEG_BLOCK + r"ffn\.layers\.0\.(.+)", r"stages.\1.blocks.\2.ffn.expand.\3"),
    (_MMSEG_BLOCK + r"ffn\.layers\.1\.(.+)", r"stages.\1.blocks.\2.ffn.depthwise.\3"),
    (_MMSEG_BLOCK + r"ffn\.layers\.4\.(.+)", r"stages.\1.blocks.\2.ffn.project.\3"),
    (r"decode_head\.convs\.(\d)\.conv\.(.+)", r"head.linears.\1.0.\2"),
    (r"decode_head\.convs\.(\d)\.bn\.(.+)", r"head.linears.\1.1.\2"),
    (r"decode_head\.fusion_conv\.conv\.(.+)", r"head.fuse.0.\1"),
    (r"decode_head\.fusion_conv\.bn\.(.+)", r"head.fuse.1.\1"),
    (r"decode_head\.conv_seg\.(.+)", r"head.classifier.\1"),
)
# The decode head's base class makes a classifier that SegFormer's head replaces by its own.
_UNUSED_BY_NVLABS = ("decode_head.conv_seg.",)
_IMAGENET_CLASSIFIER = ("head.",)
_TORCHVISION_AUXILIARY = ("aux_classifier.",)


def translate(weights: Mapping[str, Tensor], path: Path) -> Translation:
    """Recognises the dialect and gives everything our names.

    Raises:
        UserError: If no dialect fits, or the sizes are of no architecture known here.
    """
    if holds_adapters(path):
        raise UserError(adapters_alone(path))
    names = set(weights)
    if "backbone.patch_embed1.proj.weight" in names:
        return _segformer("NVlabs SegFormer", weights, _NVLABS, _UNUSED_BY_NVLABS, path)
    if "encoder.patch_embed1.proj.weight" in names:
        if "decoder.mlp_stage.0.linear.weight" not in names:
            raise UserError(
                f"{path}: a network of segmentation_models_pytorch that is no Segformer; build it in a function and "
                f"give --network module:function"
            )
        return _segformer("smp Segformer", weights, _SMP, (), path)
    if "backbone.layers.0.0.projection.weight" in names:
        return _mmseg(weights, path)
    if "patch_embed1.proj.weight" in names:
        return _segformer("MiT encoder", weights, _ENCODER, _IMAGENET_CLASSIFIER, path)
    if is_hf(weights):
        return _hugging_face(weights, path)
    if "stages.0.embed.proj.weight" in names or "head.classifier.weight" in names:
        raise UserError(
            f"{path}: weights in our own names, whose config.json says of which network; give the folder that holds "
            f"both, or a description in YAML with the key weights"
        )
    if "layers.0.0.projection.weight" in names:
        return _mmseg({"backbone." + name: tensor for name, tensor in weights.items()}, path)
    module = _torchvision(weights)
    if module is not None:
        kept = {n: t for n, t in weights.items() if not n.startswith(_TORCHVISION_AUXILIARY)}
        note = "" if len(kept) == len(weights) else "its auxiliary classifier is left out"
        renamed = {"inner." + name: tensor for name, tensor in kept.items()}
        return Translation(f"torchvision {module.source.partition(':')[2]}", renamed, (), module, note=note)
    raise UserError(
        f"{path}: names such as {', '.join(sorted(names)[:3])} belong to no dialect known here (own, Hugging Face, "
        f"NVlabs, mmsegmentation, smp, torchvision); build the network in a function and give --network module:function"
    )


def rename(weights: Mapping[str, Tensor], rules: Rules, skipped: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Applies ``rules``; also gives the names that no rule knows.

    ``<n>`` in a new name is ``n - 1``; ``key+value`` splits the tensor along its first axis; a 1x1 convolution becomes
    a matrix where our module is linear.
    """
    compiled = [(re.compile(pattern + r"\Z"), target) for pattern, target in rules]
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in weights.items():
        if name.startswith(tuple(skipped)):
            continue
        rule = next(((pattern, target) for pattern, target in compiled if pattern.match(name)), None)
        if rule is None:
            unknown.append(name)
            continue
        own = rule[0].sub(rule[1], name)
        own = re.sub(r"<(\d)>", lambda found: str(int(found[1]) - 1), own)
        for part, piece in _pieces(own, tensor):
            renamed[part] = piece
    return renamed, unknown


def _pieces(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    if ".ffn.expand." in name or ".ffn.project." in name:
        tensor = tensor.flatten(1) if tensor.dim() == 4 else tensor
    match = re.search(r"[a-z]+(\+[a-z]+)+", name)
    if match is None:
        return [(name, tensor)]
    parts = match[0].split("+")
    return [(name.replace(match[0], part), piece.clone())
            for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True)]  # fmt: skip


def _segformer(
    dialect: str, weights: Mapping[str, Tensor], rules: Rules, skipped: tuple[str, ...], path: Path
) -> Translation:
    renamed, unknown = rename(weights, rules, skipped)
    return _sized(dialect, renamed, unknown, _sizes(renamed, path), path)


def _hugging_face(weights: Mapping[str, Tensor], path: Path) -> Translation:
    renamed, unknown = from_hf(weights)
    encoder = replace(_sizes(renamed, path), norm_eps=HF_NORM_EPS)
    return _sized("Hugging Face SegFormer", renamed, unknown, encoder, path)


def _sized(
    dialect: str, renamed: dict[str, Tensor], unknown: Sequence[str], encoder: MiTConfig, path: Path
) -> Translation:
    if "head.classifier.weight" not in renamed:
        if any(name.startswith("head.") for name in renamed):
            raise UserError(f"{path}: {dialect}: has a part of a decode head, but no classifier; download it again")
        return Translation(f"{dialect}, encoder only", renamed, tuple(unknown), None, encoder)
    classes, width = renamed["head.classifier.weight"].shape[:2]
    return Translation(dialect, renamed, tuple(unknown), SegformerConfig(encoder, int(classes), int(width)))


def _mmseg(weights: Mapping[str, Tensor], path: Path) -> Translation:
    renamed, unknown = rename(weights, _MMSEG, ())
    encoder = _sizes(renamed, path)
    if "head.classifier.weight" not in renamed:
        return Translation("mmsegmentation MiT, encoder only", renamed, tuple(unknown), None, encoder)
    variant = next((name for name, sizes in MIT_VARIANTS.items() if _alike(sizes, encoder)), None)
    if variant is None or "head.linears.0.0.weight" not in renamed:
        raise UserError(f"{path}: mmsegmentation: only SegFormer heads on MiT-B0 to B5 are known")
    classes, width = renamed["head.classifier.weight"].shape[:2]
    config = NetworkConfig(f"mit_{variant}", "segformer_mmseg", int(classes), int(width))
    return Translation("mmsegmentation SegFormer", renamed, tuple(unknown), config)


def _alike(one: MiTConfig, other: MiTConfig) -> bool:
    return (one.widths, one.depths, one.reductions) == (other.widths, other.depths, other.reductions)


def _sizes(renamed: Mapping[str, Tensor], path: Path) -> MiTConfig:
    widths, depths, reductions = [], [], []
    for stage in range(4):
        embed = renamed.get(f"stages.{stage}.embed.proj.weight")
        expand = renamed.get(f"stages.{stage}.blocks.0.ffn.expand.weight")
        if embed is None or expand is None:
            raise UserError(f"{path}: stage {stage + 1} of the encoder is missing; download the file again")
        widths.append(int(embed.shape[0]))
        blocks = {name.split(".")[3] for name in renamed if name.startswith(f"stages.{stage}.blocks.")}
        depths.append(len(blocks))
        reduce = renamed.get(f"stages.{stage}.blocks.0.attention.reduce.weight")
        reductions.append(1 if reduce is None else int(reduce.shape[-1]))
    ratio = int(renamed["stages.0.blocks.0.ffn.expand.weight"].shape[0]) // widths[0]
    return MiTConfig(
        (widths[0], widths[1], widths[2], widths[3]), (depths[0], depths[1], depths[2], depths[3]),
        reductions=(reductions[0], reductions[1], reductions[2], reductions[3]), mlp_ratio=ratio,
    )  # fmt: skip


def _torchvision(weights: Mapping[str, Tensor]) -> ModuleConfig | None:
    blocks = sum(re.fullmatch(r"backbone\.layer3\.\d+\.conv1\.weight", name) is not None for name in weights)
    mobile = "mobilenet_v3_large" if "backbone.16.0.weight" in weights else None
    backbone = {6: "resnet50", 23: "resnet101"}.get(blocks, mobile)
    if "classifier.low_classifier.weight" in weights:
        head, last = "lraspp", "classifier.low_classifier.weight"
    else:
        head = "deeplabv3" if "classifier.0.convs.0.0.weight" in weights else "fcn"
        last = "classifier.4.weight"
    if backbone is None or last not in weights:
        return None
    return ModuleConfig(f"torchvision:{head}_{backbone}", int(weights[last].shape[0]))
