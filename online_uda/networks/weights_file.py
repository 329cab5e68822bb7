"""Files of weights: read without running any code in them, and compared with what a network expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from online_uda.errors import UserError

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
LIGHT = "light_head."
_SHOWN = 4


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds.

    Attributes:
        weights: Tensors by name.
        class_names: As mmsegmentation writes them beside the weights; empty elsewhere.
    """

    weights: dict[str, Tensor]
    class_names: tuple[str, ...] = ()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of `read_weights_file`."""
    return read_weights_file(path).weights


def read_weights_file(path: Path) -> WeightsFile:
    """Reads a safetensors file, or a ``.pth``/``.pt``/``.bin`` file of plain tensors, without running any code in it.

    Raises:
        UserError: If the file is truncated, pickled with code, a Git LFS pointer, or holds no tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: is a Git LFS pointer, not weights; run `git lfs pull` in its repository")
    if path.suffix == ".safetensors":
        try:
            return WeightsFile(load_file(path))
        except (SafetensorError, ValueError) as error:
            raise UserError(
                f"{path}: truncated or not a safetensors file ({error}); download or copy it again"
            ) from None
    return _unpacked(_unpickled(path, head), path)


def _unpickled(path: Path, head: bytes) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        # An archive that cannot be opened is torn; one that can be, and is refused, asks for more than tensors.
        if not head or (head.startswith(b"PK") and "zip archive" in str(error)) or isinstance(error, EOFError):
            raise UserError(f"{path}: truncated ({reason}); download or copy it again") from None
        if head.lstrip()[:1] in (b"<", b"{"):
            raise UserError(f"{path}: is text, not weights ({head[:24]!r}...); download the file itself") from None
        raise UserError(
            f"{path}: refused, not a plain tensor file (it may run code when unpickled): {reason}; "
            "convert it to safetensors where you trust it"
        ) from None


def _unpacked(content: Any, path: Path) -> WeightsFile:
    names: tuple[str, ...] = ()
    if isinstance(content, Mapping):
        meta = content.get("meta")
        if isinstance(meta, Mapping):
            listed = meta.get("CLASSES") or meta.get("classes") or (meta.get("dataset_meta") or {}).get("classes")
            names = tuple(map(str, listed)) if isinstance(listed, list | tuple) else ()
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: holds no state dict of tensors")
    # Networks trained in parallel were saved inside a wrapper that adds a prefix to every name.
    wrapped = bool(content) and all(str(name).startswith("module.") for name in content)
    return WeightsFile({str(name).removeprefix("module.") if wrapped else str(name): tensor
                        for name, tensor in content.items()}, names)  # fmt: skip


def difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], unknown: Iterable[str] = ()) -> list[str]:
    """What is missing, unexpected, or of another shape: a part of a sentence each, with the first few names."""
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
            more = f" ... and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{len(names)} {title}: {', '.join(names[:_SHOWN])}{more}")
    return lines


def load_strict(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    *,
    unknown: Iterable[str] = (),
    left_out: tuple[str, ...] = (),
) -> bool:
    """Fills ``network`` with ``weights``; nothing is ever loaded in part.

    Args:
        network: To fill.
        weights: By the network's names.
        path: Of the file, for messages.
        unknown: Names in the file that have no place in the network.
        left_out: Prefixes of names that the file may lack; a light head is always one of them.

    Returns:
        Whether there was a light head.

    Raises:
        UserError: If the names or shapes differ, or a tensor holds NaN or infinity.
    """
    expected = network.state_dict()
    has_light = any(name.startswith(LIGHT) for name in weights)
    skipped = left_out if has_light else (*left_out, LIGHT)
    expected = {name: tensor for name, tensor in expected.items() if not name.startswith(skipped)} if skipped \
        else expected  # fmt: skip
    # num_batches_tracked is a counter that inference never reads; older writers leave it out.
    expected = {k: v for k, v in expected.items() if k in weights or not k.endswith("num_batches_tracked")}
    lines = difference(expected, weights, unknown)
    if lines:
        raise UserError(f"{path}: does not fit this architecture; " + "; ".join(lines))
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise UserError(f"{path}: {len(bad)} tensors hold NaN or infinity, the first is {bad[0]}")
    network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                             for name, tensor in weights.items()}, strict=False)  # fmt: skip
    return has_light
