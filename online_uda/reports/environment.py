"""What a result was made on: software versions, processor, threads, devices, commit and command line."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from streams._workers import core_count
from streams.live.feed import hidden

PACKAGES = (
    "online_uda", "torch", "torchvision", "timm", "numpy", "numba", "opencv-python", "av", "pydantic", "safetensors",
    "matplotlib", "jinja2",
    "tensorboard", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime",
    "tqdm", "optuna",
)  # fmt: skip


def describe_environment(argv: list[str] | None = None) -> dict[str, Any]:
    """JSON-safe description of the machine, the software and the command; unknown entries are None.

    Args:
        argv: Command line; ``sys.argv`` by default. Passwords inside addresses (rtsp://user:pass@host) are hidden.
    """
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [hide_credentials(part) for part in (sys.argv if argv is None else argv)],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": core_count(),
        "torch": _torch_facts(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_state(Path(__file__).resolve().parent),
    }


def hide_credentials(text: str) -> str:
    """Replace user and password in an address.

    >>> hide_credentials("rtsp://me:secret@10.0.0.7/cam")
    'rtsp://***@10.0.0.7/cam'
    """
    return hidden(text)


def cpu_name() -> str | None:
    """Marketing name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine() or None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it; None outside a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "modified": None if changed is None else bool(changed)}


def _torch_facts() -> dict[str, Any] | None:
    """Threads and devices; None in a process that never loaded torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cuda_devices": devices,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
