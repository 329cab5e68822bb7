"""Networks from a name or a folder, strictly; and our own folder format out again.

Own format: a folder with `config.json` (``"format": "online_uda.network/1"``) and `model.safetensors`. Hugging Face
SegFormer folders are read by their `config.json`. Nothing is ever loaded in part: a missing, unexpected or misshapen
tensor is an error that lists the difference. The light head is the one exception, and it is reported as absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from online_uda.errors import UserError
from online_uda.networks.architecture import AnyConfig, NetworkConfig, build_network
from online_uda.networks.hf_segformer import config_from_hf, from_hf
from online_uda.networks.segmenter import SegformerConfig, Segmenter

FORMAT = "online_uda.network/1"
WEIGHTS_FILE = "model.safetensors"
_LIGHT = "light_head."


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network with its provenance.

    Attributes:
        network: In eval mode, float32, on the CPU.
        class_names: In id order; empty where the checkpoint names none.
        has_light_head: Whether the checkpoint held a trained light head.
        description: Where it came from and what was loaded, one line.
        config: What `build_network` needs to build it again; None for a network of another kind.
    """

    network: Segmenter
    class_names: tuple[str, ...]
    has_light_head: bool
    description: str
    config: AnyConfig | None = None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file, or a `.pth`/`.bin` file of plain tensors, without running any code in it.

    Raises:
        UserError: If the file is truncated, pickled with code, a Git LFS pointer, or holds no tensors.
    """
    try:
        head = path.open("rb").read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: is a Git LFS pointer, not weights; run `git lfs pull` in its repository")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, ValueError) as error:
            raise UserError(
                f"{path}: truncated or not a safetensors file ({error}); download or copy it again"
            ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: refused, not a plain tensor file (it may run code when unpickled): {reason[:120]}; "
            "convert it to safetensors where you trust it"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: holds no state dict of tensors")
    return dict(content)


def _difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], unknown: list[str]) -> list[str]:
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected)) + sorted(unknown)
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(found))
        if expected[name].shape != found[name].shape
    ]
    lines = []
    for title, names in (("missing", missing), ("unexpected", unexpected), ("other shape", shapes)):
        if names:
            more = f" ... and {len(names) - 4} more" if len(names) > 4 else ""
            lines.append(f"{len(names)} {title}: {', '.join(names[:4])}{more}")
    return lines


def _load_strict(network: Segmenter, weights: Mapping[str, Tensor], unknown: list[str], path: Path) -> bool:
    expected = network.state_dict()
    has_light = any(name.startswith(_LIGHT) for name in weights)
    if not has_light:
        expected = {name: tensor for name, tensor in expected.items() if not name.startswith(_LIGHT)}
    # num_batches_tracked is a counter that inference never reads; older writers leave it out.
    expected = {k: v for k, v in expected.items() if k in weights or not k.endswith("num_batches_tracked")}
    lines = _difference(expected, weights, unknown)
    if lines:
        raise UserError(f"{path}: does not fit this architecture; " + "; ".join(lines))
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise UserError(f"{path}: {len(bad)} tensors hold NaN or infinity, the first is {bad[0]}")
    network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                             for name, tensor in weights.items()}, strict=False)  # fmt: skip
    return has_light


def load_folder(folder: Path) -> LoadedNetwork:
    """Loads a network folder of our own format or of Hugging Face's SegFormer.

    Raises:
        UserError: If the folder, its config or its weights are missing, damaged or of another architecture.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such network folder")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; give the folder that holds config.json and {WEIGHTS_FILE}")
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise UserError(f"{folder}: has no config.json; give a folder with config.json and {WEIGHTS_FILE}")
    content = _read_json(config_path)
    weights_path = _weights_file(folder)
    config: AnyConfig
    if content.get("format") == FORMAT:
        config, names = _own_config(content, config_path)
        weights, dialect = read_weights(weights_path), "own format"
        unknown: list[str] = []
    elif content.get("model_type") == "segformer":
        config, names = config_from_hf(content, str(config_path))
        weights, unknown = from_hf(read_weights(weights_path))
        dialect = "Hugging Face SegFormer"
    else:
        found = content.get("model_type") or content.get("architecture") or content.get("format")
        raise UserError(f"{config_path}: architecture {found!r} is not supported; expected model_type 'segformer'")
    network = build_network(config)
    has_light = _load_strict(network, weights, unknown, weights_path)
    light = "with" if has_light else "without"
    description = f"{folder} ({dialect}, {len(weights)} tensors, {config.classes} classes, {light} light head)"
    return LoadedNetwork(network.eval(), names, has_light, description, config)


def load_weights(network: Segmenter, path: Path) -> bool:
    """Fills ``network`` with the file's tensors, strictly; tells whether the light head was among them.

    Raises:
        UserError: The file is damaged, or is of another architecture.
    """
    return _load_strict(network, read_weights(path), [], path)


def _weights_file(folder: Path) -> Path:
    for name in (WEIGHTS_FILE, "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has no {WEIGHTS_FILE} beside its config.json")


def _own_config(content: Mapping[str, Any], path: Path) -> tuple[AnyConfig, tuple[str, ...]]:
    try:
        names = TypeAdapter(tuple[str, ...]).validate_python(content["class_names"])
        if "network" in content:
            return TypeAdapter(NetworkConfig).validate_python(content["network"]), names
        return TypeAdapter(SegformerConfig).validate_python(content["segformer"]), names
    except KeyError as error:
        raise UserError(f"{path}: not a {FORMAT} config; key {error} is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a {FORMAT} config; {where}: {first['msg']}") from None


def save_folder(
    folder: Path,
    network: Segmenter,
    config: AnyConfig,
    class_names: tuple[str, ...],
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes config.json and model.safetensors; each appears whole or not at all.

    Args:
        folder: Created if needed.
        network: The network to save.
        config: What `build_network` needs to build it again.
        class_names: In id order.
        provenance: Command, seed, scores: anything JSON can hold.
        dtype: Storage type of floating-point tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in network.state_dict().items()
    }
    partial = folder / (WEIGHTS_FILE + ".partial")
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # the writer makes it readable for its owner only, which a package must not be
    os.replace(partial, folder / WEIGHTS_FILE)
    content = {
        "format": FORMAT,
        "class_names": list(class_names),
        "segformer" if isinstance(config, SegformerConfig) else "network": asdict(config),
        "provenance": dict(provenance),
    }
    partial = folder / "config.json.partial"
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / "config.json")
