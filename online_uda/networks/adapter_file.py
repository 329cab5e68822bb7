"""Adapters alone, in a file of kilobytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.networks.adapter_layers import AdapterConfig
from online_uda.networks.adapters import adapter_parameters, insert_adapters, remove_adapters
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.spec import ADAPTERS_FORMAT
from online_uda.networks.weights_file import difference


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
    save_file(tensors, partial, metadata={"format": ADAPTERS_FORMAT, "adapters": json.dumps(asdict(config))})
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
        if meta.get("format") != ADAPTERS_FORMAT:
            raise UserError(f"{path}: holds no adapters (format {meta.get('format')!r}, expected {ADAPTERS_FORMAT!r})")
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
