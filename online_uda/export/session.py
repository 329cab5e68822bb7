"""ONNX Runtime sessions on the device that was asked for, and never silently on another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import torch

from online_uda.errors import UserError

_ERRORS_ONLY = 3
"""Overridable initializers are meant to be overridden; ONNX Runtime warns of each."""


def open_session(
    model: bytes | str,
    device: torch.device,
    threads: int,
    *,
    profile: str | None = None,
    optimise: bool = True,
    save: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Opens a model.

    Args:
        model: Serialised model, or path of a file.
        device: ``cpu``, or a CUDA device.
        threads: Threads on the CPU. They do not spin between frames, when the cores belong to learning.
        profile: Start of the name of a profile to write.
        optimise: Whether to optimise the graph; one that was saved here is optimised already.
        save: File for the graph as it is after that, for this machine alone.

    Raises:
        UserError: The device's provider is missing or fell back to another one, or the model is damaged.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = str(save)
    provider, settings = _provider(device)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[(provider, settings)])
    except Exception as error:
        where = model if isinstance(model, str) else "model"
        raise UserError(f"{where}: ONNX Runtime cannot open it: {' '.join(str(error).split())[:200]}") from error
    check_provider(session.get_providers(), provider)
    return session


def check_provider(found: list[str], wanted: str) -> None:
    """ONNX Runtime goes on without a provider whose libraries it cannot load; here that is an error.

    Raises:
        UserError: The first provider is not the wanted one.
    """
    if not found or found[0] != wanted:
        raise UserError(
            f"ONNX Runtime fell back to {found[0] if found else 'nothing'} where {wanted} was asked for; install "
            "onnxruntime-gpu alone (not beside onnxruntime) with CUDA libraries of its version, "
            "or use --device cpu or --backend torch"
        )


def _provider(device: torch.device) -> tuple[str, dict[str, Any]]:
    if device.type == "cpu":
        return "CPUExecutionProvider", {}
    wanted = "CUDAExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise UserError(
            f"this onnxruntime has no {wanted}; install onnxruntime-gpu, or use --device cpu or --backend torch"
        )
    onnxruntime.preload_dlls()  # takes the CUDA libraries that torch has brought
    # Parity with torch is checked to 1e-4, which TF32 would not hold.
    return wanted, {"device_id": device.index or 0, "use_tf32": 0}
