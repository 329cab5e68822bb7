"""Hugging Face's SegFormer: parameter names old and new, and config.json.

The names in the `model.safetensors` FILE are what the library writes in every version. In memory transformers 5 has
others, and a state dict that was saved from there has those; both are read, the first are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
_BLOCK = r"segformer\.stages\.(\d)\.blocks\.(\d+)\."
_IN_MEMORY: tuple[tuple[str, str], ...] = (
    (r"segformer\.stages\.(\d)\.patch_embeddings\.proj\.(.+)", r"stages.\1.embed.proj.\2"),
    (r"segformer\.stages\.(\d)\.patch_embeddings\.layer_norm\.(.+)", r"stages.\1.embed.norm.\2"),
    (r"segformer\.stages\.(\d)\.layer_norm\.(.+)", r"stages.\1.norm.\2"),
    (_BLOCK + r"layernorm_before\.(.+)", r"stages.\1.blocks.\2.norm1.\3"),
    (_BLOCK + r"layernorm_after\.(.+)", r"stages.\1.blocks.\2.norm2.\3"),
    (_BLOCK + r"attention\.q_proj\.(.+)", r"stages.\1.blocks.\2.attention.query.\3"),
    (_BLOCK + r"attention\.k_proj\.(.+)", r"stages.\1.blocks.\2.attention.key.\3"),
    (_BLOCK + r"attention\.v_proj\.(.+)", r"stages.\1.blocks.\2.attention.value.\3"),
    (_BLOCK + r"attention\.o_proj\.(.+)", r"stages.\1.blocks.\2.attention.out.\3"),
    (
        _BLOCK + r"attention\.sequence_reduction\.sequence_reduction\.(.+)",
        r"stages.\1.blocks.\2.attention.reduce.\3",
    ),
    (_BLOCK + r"attention\.sequence_reduction\.layer_norm\.(.+)", r"stages.\1.blocks.\2.attention.norm.\3"),
    (_BLOCK + r"mlp\.fc1\.(.+)", r"stages.\1.blocks.\2.ffn.expand.\3"),
    (_BLOCK + r"mlp\.dwconv\.dwconv\.(.+)", r"stages.\1.blocks.\2.ffn.depthwise.\3"),
    (_BLOCK + r"mlp\.fc2\.(.+)", r"stages.\1.blocks.\2.ffn.project.\3"),
    (r"decode_head\.linear_projections\.(\d)\.proj\.(.+)", r"head.linears.\1.\2"),
)
_COMPILED = tuple((re.compile(pattern + r"\Z"), target) for pattern, target in (*_RULES, *_IN_MEMORY))
_WHOLE = ("segformer.", "decode_head.", "classifier.")
_FIRST = ("encoder.patch_embeddings.0.proj.weight", "stages.0.patch_embeddings.proj.weight")
_IMAGE_CLASSIFIER = "classifier."


def own_name(name: str) -> str | None:
    """Our name of a Hugging Face parameter or buffer, or None for a name of another architecture."""
    name = name if name.startswith(_WHOLE) else "segformer." + name  # an encoder that was saved by itself
    for pattern, target in _COMPILED:
        if pattern.match(name):
            return pattern.sub(target, name)
    return None


def is_hf(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of Hugging Face's SegFormer, or of its encoder alone."""
    return any(prefix + first in weights for prefix in ("segformer.", "") for first in _FIRST)


def from_hf(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Renames a Hugging Face state dict to ours; also returns the names that no rule knows.

    The classifier of whole images that a published encoder comes with is left out.
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in weights.items():
        own = own_name(name)
        if own is not None:
            renamed[own] = tensor
        elif not name.startswith(_IMAGE_CLASSIFIER):
            unknown.append(name)
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
    classes = len(ordered) or int(config.get("num_labels", 2))  # two are not written down
    if classes < 2:
        raise UserError(f"{source}: id2label names {classes} classes; a segmentation network needs at least 2")
    encoder = MiTConfig(
        tuple(widths), tuple(depths), tuple(heads), tuple(reductions), int(ratios[0]), HF_NORM_EPS,
        float(config.get("drop_path_rate", 0.1)),
    )  # fmt: skip
    return replace(SegformerConfig(encoder, classes), head_width=head_width), ordered


def _inverted(pattern: str, target: str) -> tuple[re.Pattern[str], str]:
    """The rule that undoes ``pattern -> target``; groups stand in the same order on both sides."""
    groups = iter(re.findall(r"\([^)]*\)", pattern))
    own = re.sub(r"\\\d", lambda _: next(groups), target.replace(".", r"\."))
    numbers = iter(range(1, 10))
    hugging_face = re.sub(r"\([^)]*\)", lambda _: rf"\{next(numbers)}", pattern).replace(r"\.", ".")
    return re.compile(own + r"\Z"), hugging_face


_INVERTED = tuple(_inverted(pattern, target) for pattern, target in _RULES)


def to_hf(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames our state dict to Hugging Face's; the light head has no place there and is left out.

    Raises:
        KeyError: A name that no rule knows: the network is no SegFormer.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.startswith("light_head."):
            continue
        rule = next(((pattern, target) for pattern, target in _INVERTED if pattern.match(name)), None)
        if rule is None:
            raise KeyError(name)
        renamed[rule[0].sub(rule[1], name)] = tensor
    return renamed


def config_to_hf(config: SegformerConfig, class_names: Sequence[str]) -> dict[str, Any]:
    """The config.json that transformers reads; `config_from_hf` gives ``config`` back, but for eps and statistics."""
    encoder = config.encoder
    names = list(class_names) or [f"class {index}" for index in range(config.classes)]
    return {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "num_channels": 3,
        "num_encoder_blocks": 4,
        "hidden_sizes": list(encoder.widths),
        "depths": list(encoder.depths),
        "num_attention_heads": list(encoder.heads),
        "sr_ratios": list(encoder.reductions),
        "mlp_ratios": [encoder.mlp_ratio] * 4,
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "drop_path_rate": encoder.drop_path,
        "layer_norm_eps": 1e-6,
        "decoder_hidden_size": config.head_width,
        "semantic_loss_ignore_index": 255,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
