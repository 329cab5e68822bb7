"""Whether an exception is memory that ran out, which smaller work may mend, or anything else."""

from __future__ import annotations

import torch

WORDS = ("out of memory", "DefaultCPUAllocator", "can't allocate memory")
"""What torch says of memory where it raises nothing more special than RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the device or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)
