"""Peak memory of this process and of the CUDA devices it used, in MiB."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process in MiB; None where the system does not tell."""
    # VmHWM starts anew with every exec; getrusage carries the peak of the parent over a fork.
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) / 1024.0
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024.0


def peak_cuda_memory_mb() -> float | None:
    """Most CUDA memory torch had allocated at once, over all devices, in MiB; None if CUDA was never used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / 2**20
