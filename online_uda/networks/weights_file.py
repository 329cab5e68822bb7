"""Files of weights: read without running any code in them, and compared with what a network expects."""

from __future__ import annotations

import re
import tarfile
import zipfile
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
    refuse_lfs_pointer(path, head)
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except (SafetensorError, ValueError) as error:
            raise UserError(
                f"{path}: truncated or not a safetensors file ({error}); download or copy it again"
            ) from None
        return _named(tensors, (), path)
    return _unpacked(_unpickled(path, head), path)


def refuse_lfs_pointer(path: Path, head: bytes) -> None:
    """Raises `UserError` where ``head``, the first bytes of a file, is that of a Git LFS pointer."""
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: is a Git LFS pointer, not what it stands for; run `git lfs pull` in its repository")


def _unpickled(path: Path, head: bytes) -> Any:
    if head.lstrip()[:1] in (b"<", b"{"):
        raise UserError(f"{path}: is text, not weights ({head[:24]!r}...); download the file itself")
    if len(head) >= 2 and not head.startswith((b"PK", b"\x80")) and not _is_tar(path):
        raise UserError(
            f"{path}: is no file of weights (it begins with {head[:8]!r}); give a .safetensors file, or a .pth, .pt or "
            f".bin that torch.save wrote"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        # An archive that cannot be opened is torn; one that can be, and is refused, asks for more than tensors.
        torn = head.startswith(b"PK") and not zipfile.is_zipfile(path)
        reason = reason if len(head) >= 2 else f"it is {len(head)} bytes long"
        if len(head) < 2 or torn or isinstance(error, EOFError):
            raise UserError(f"{path}: truncated ({reason}); download or copy it again") from None
        # Torch says at length how its guard can be switched off; what matters is what the file asked for.
        asked = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        asks = f"it asks for {asked[1]}" if asked else reason
        raise UserError(
            f"{path}: refused, not a plain tensor file (it may run code when unpickled): {asks}; where you trust it, "
            "load it in Python and save its state_dict() as safetensors"
        ) from None


def _is_tar(path: Path) -> bool:
    """Whether a file is of torch's oldest format, a tar archive."""
    try:
        return tarfile.is_tarfile(path)
    except OSError:
        return False


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
    return _named(content, names, path)


def _named(content: Mapping[Any, Tensor], names: tuple[str, ...], path: Path) -> WeightsFile:
    if not content:
        raise UserError(f"{path}: holds no tensors at all; give the file of a trained network")
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


def refuse_bad_values(weights: Mapping[str, Tensor], what: str) -> None:
    """Raises `UserError` where a tensor could only predict nonsense.

    Args:
        weights: By name.
        what: What they are of, for the message.
    """
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise UserError(f"{what}: {len(bad)} tensors hold NaN or infinity, the first is {bad[0]}")
    bad = [name for name, tensor in weights.items() if name.endswith("running_var") and bool((tensor < 0).any())]
    if bad:
        raise UserError(f"{what}: {len(bad)} variances are negative, the first is {bad[0]}")


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
        UserError: If the names, shapes or kinds differ, a tensor holds NaN or infinity, or a variance is negative.
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
    kinds = [name for name, tensor in expected.items() if tensor.is_floating_point() and
             not weights[name].is_floating_point()]  # fmt: skip
    if kinds:
        raise UserError(
            f"{path}: {len(kinds)} tensors are of another kind, the first is {kinds[0]} ({weights[kinds[0]].dtype} for "
            f"{expected[kinds[0]].dtype}); quantised weights have to be converted to floating point first"
        )
    refuse_bad_values(weights, str(path))
    network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                             for name, tensor in weights.items()}, strict=False)  # fmt: skip
    return has_light
