"""Hugging Face SegFormer folders: parameter names, config.json, and strict loading.

The names in the `model.safetensors` FILE are the contract; the library renames its modules in memory between versions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from online_uda.errors import UserError
from online_uda.networks.mit import MiTConfig
from online_uda.networks.segmenter import SegformerConfig

HF_NORM_EPS = 1e-5
"""Hugging Face builds every LayerNorm with torch's default eps, whatever its config.json says."""

_RULES: tuple[tuple[str, str], ...] = (
    (r"segformer\.encoder\.patch_embeddings\.(\d)\.proj\.(.+)", r"stages.\1.embed.proj.\2"),
    (r"segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.(.+)", r"stages.\1.embed.norm.\2"),
    (r"segformer\.encoder\.layer_norm\.(\d)\.(.+)", r"stages.\1.norm.\2"),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.layer_norm_([12])\.(.+)", r"stages.\1.blocks.\2.norm\3.\4"),
    (
        r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.(query|key|value)\.(.+)",
        r"stages.\1.blocks.\2.attention.\3.\4",
    ),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.sr\.(.+)", r"stages.\1.blocks.\2.attention.reduce.\3"),
    (
        r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.layer_norm\.(.+)",
        r"stages.\1.blocks.\2.attention.norm.\3",
    ),
    (
        r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.output\.dense\.(.+)",
        r"stages.\1.blocks.\2.attention.out.\3",
    ),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.mlp\.dense1\.(.+)", r"stages.\1.blocks.\2.ffn.expand.\3"),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.(.+)", r"stages.\1.blocks.\2.ffn.depthwise.\3"),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.mlp\.dense2\.(.+)", r"stages.\1.blocks.\2.ffn.project.\3"),
    (r"decode_head\.linear_c\.(\d)\.proj\.(.+)", r"head.linears.\1.\2"),
    (r"decode_head\.linear_fuse\.(.+)", r"head.fuse.\1"),
    (r"decode_head\.batch_norm\.(.+)", r"head.norm.\1"),
    (r"decode_head\.classifier\.(.+)", r"head.classifier.\1"),
)
_COMPILED = tuple((re.compile(pattern + r"\Z"), target) for pattern, target in _RULES)


def own_name(name: str) -> str | None:
    """Our name of a Hugging Face parameter or buffer, or None for a name of another architecture."""
    for pattern, target in _COMPILED:
        if pattern.match(name):
            return pattern.sub(target, name)
    return None


def from_hf(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Renames a Hugging Face state dict to ours; also returns the names that no rule knows."""
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in weights.items():
        own = own_name(name)
        if own is None:
            unknown.append(name)
        else:
            renamed[own] = tensor
    return renamed, unknown


def config_from_hf(config: Mapping[str, Any], source: str) -> tuple[SegformerConfig, tuple[str, ...]]:
    """Reads a SegFormer config.json.

    Args:
        config: The parsed file.
        source: Its path, for messages.

    Returns:
        The network configuration and the class names in id order (empty where the file names none).

    Raises:
        UserError: If a key is missing or the sizes are not those of a MiT encoder.
    """
    try:
        widths, depths = config["hidden_sizes"], config["depths"]
        heads, reductions, ratios = config["num_attention_heads"], config["sr_ratios"], config["mlp_ratios"]
        head_width = int(config["decoder_hidden_size"])
    except KeyError as error:
        raise UserError(f"{source}: key {error} is missing; is this the config.json of a SegFormer?") from None
    if not all(isinstance(v, list) and len(v) == 4 for v in (widths, depths, heads, reductions, ratios)):
        raise UserError(
            f"{source}: hidden_sizes, depths, num_attention_heads, sr_ratios, mlp_ratios need 4 entries each"
        )
    if len(set(ratios)) != 1:
        raise UserError(f"{source}: mlp_ratios {ratios} differ between stages; only one ratio for all is supported")
    if config.get("reshape_last_stage") is False:
        raise UserError(f"{source}: reshape_last_stage false is not a segmentation encoder")
    names = config.get("id2label") or {}
    ordered = tuple(str(names[key]) for key in sorted(names, key=int))
    classes = len(ordered) or int(config.get("num_labels", 0))
    if classes < 2:
        raise UserError(f"{source}: id2label names {classes} classes; a segmentation network needs at least 2")
    encoder = MiTConfig(
        tuple(widths), tuple(depths), tuple(heads), tuple(reductions), int(ratios[0]), HF_NORM_EPS,
        float(config.get("drop_path_rate", 0.1)),
    )  # fmt: skip
    return replace(SegformerConfig(encoder, classes), head_width=head_width), ordered
