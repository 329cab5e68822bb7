"""Networks into a folder: our own format, and that of Hugging Face's SegFormer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from online_uda.errors import UserError
from online_uda.networks.alignment import InputAlignment
from online_uda.networks.architecture import AnyConfig, FunctionConfig, ModuleConfig, NetworkConfig
from online_uda.networks.hf_segformer import config_to_hf, to_hf
from online_uda.networks.segmenter import SegformerConfig, Segmenter
from online_uda.networks.weights_file import LIGHT, WEIGHTS_FILE, refuse_bad_values

FORMAT = "online_uda.network/1"
ALIGNMENT = "alignment"
CONFIGS: dict[str, type[Any]] = {
    "segformer": SegformerConfig, "network": NetworkConfig, "module": ModuleConfig, "function": FunctionConfig,
}  # fmt: skip
"""Kinds of configuration by their key in `config.json`."""


def save_folder(
    folder: Path,
    network: Segmenter,
    config: AnyConfig,
    class_names: tuple[str, ...],
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    *,
    light_head: bool = True,
) -> None:
    """Writes config.json and model.safetensors; each appears whole or not at all.

    Args:
        folder: Created if needed.
        network: The network to save.
        config: What `build_network` needs to build it again.
        class_names: In id order.
        provenance: Command, seed, scores: anything JSON can hold.
        dtype: Storage type of floating-point tensors.
        light_head: Whether the light head is trained; one that is not would pass for a trained one if it were written.

    Raises:
        UserError: The weights cannot be held in such a file.
    """
    state = network.state_dict()
    if not light_head:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(LIGHT)}
    _write_weights(folder, state, dtype)
    content = {
        "format": FORMAT,
        "class_names": list(class_names),
        next(key for key, kind in CONFIGS.items() if isinstance(config, kind)): asdict(config),
        "provenance": dict(provenance),
    }
    if isinstance(network.alignment, InputAlignment):
        content[ALIGNMENT] = network.alignment.as_dict()
    _write_text(folder / "config.json", json.dumps(content, indent=2) + "\n")


def save_hf_folder(
    folder: Path, network: Segmenter, config: AnyConfig, class_names: tuple[str, ...], dtype: torch.dtype
) -> None:
    """Writes a folder that transformers' `SegformerForSemanticSegmentation.from_pretrained` reads.

    Raises:
        UserError: The network is no SegFormer.
    """
    if not isinstance(config, SegformerConfig):
        raise UserError(f"{folder}: only a SegFormer has a Hugging Face format; save it with --format own")
    if len(set(class_names)) < len(class_names):
        raise UserError(f"{folder}: two classes have the same name, which Hugging Face's config.json cannot hold")
    _write_weights(folder, to_hf(network.state_dict()), dtype)
    _write_text(folder / "config.json", json.dumps(config_to_hf(config, class_names), indent=2) + "\n")
    look = {"image_processor_type": "SegformerImageProcessor", "do_rescale": True, "do_normalize": True,
            "do_resize": False, "image_mean": list(config.mean), "image_std": list(config.std)}  # fmt: skip
    _write_text(folder / "preprocessor_config.json", json.dumps(look, indent=2) + "\n")


def _write_weights(folder: Path, state: Mapping[str, Any], dtype: torch.dtype) -> None:
    weights: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{folder}: {name} is a {type(value).__name__}; only tensors can be saved")
        # A file holds every tensor by itself: weights that a module uses twice are written twice.
        tensor = _held_as(dtype, value).contiguous().cpu()
        weights[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in seen else tensor
        seen.add(weights[name].untyped_storage().data_ptr())
    refuse_bad_values(weights, str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (WEIGHTS_FILE + ".partial")
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # the writer makes it readable for its owner only, which a package must not be
    os.replace(partial, folder / WEIGHTS_FILE)


def _held_as(dtype: torch.dtype, tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` as ``dtype`` where that can hold it: a large variance is no float16."""
    if not tensor.is_floating_point():
        return tensor
    held = tensor.to(dtype)
    return tensor if tensor.isfinite().all() and not held.isfinite().all() else held


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
