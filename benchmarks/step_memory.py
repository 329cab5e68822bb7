"""Largest memory of tensors during one learning step, by scope: weights, gradients, moments and the graph.

    python -m benchmarks.step_memory --network segformer_b0 segformer_b2 timm:resnet50+deeplabv3plus --size 256x512

Counted tensor by tensor on the CPU: every storage that an operation makes, until it is freed. The figures are those of
any device but for what a library sets aside. Two steps of entropy with Adam on random weights; the second one's peak,
with the moments there, source network and student together.
"""

from __future__ import annotations

import argparse
import json
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from online_uda.adaptation.build import build_method
from online_uda.adaptation.settings import MethodSettings
from online_uda.networks.inference import parse_tile
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_network
from streams.classes import CITYSCAPES_19

SCOPES: dict[str, dict[str, Any]] = {
    "all": {"parameters": "all"},
    "norm": {"parameters": "norm"},
    "head": {"parameters": "head"},
    "last stage": {"parameters": "suffix", "select": "fixed", "first_module": 4},
}
SAVINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "recompute": {"kind": "recompute"},
    "prune, half of each": {"kind": "prune", "rule": "even", "keep": 0.5},
    "prune, surgeon": {"kind": "prune"},
}
"""Values of the slot ``activations``."""


class Peak(TorchDispatchMode):
    """Bytes of all storages that an operation made and that still live; ``peak`` is the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, weakref.ref[Any]] = {}
        self._bytes = self.peak = 0

    def hold(self, tensors: Any) -> None:
        """Counts tensors that are there already, and every storage once."""
        for tensor in tree_iter(tensors):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._live:
                continue

            def free(_: Any, key: int = key, size: int = size) -> None:
                self._live.pop(key, None)
                self._bytes -= size

            self._live[key] = weakref.ref(storage, free)
            self._bytes += size
        self.peak = max(self.peak, self._bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.hold(result)
        return result


def peak_of_a_step(
    name: str, size: tuple[int, int], scope: dict[str, Any], activations: dict[str, Any] | None = None
) -> float:
    """MiB at the highest moment of the second step; source network and student together."""
    loaded = load_network(name, CITYSCAPES_19, NetworkOptions(init="random"))
    settings = MethodSettings.model_validate(
        {
            "description": "entropy",
            "scope": scope,
            "optimizer": {"name": "adam"},
            "objectives": {"entropy": {}},
            "activations": activations,
        }
    )
    method = build_method(
        settings, name="entropy", network=loaded, classes=CITYSCAPES_19, source=None, size=None, seed=0,
        device=torch.device("cpu"), bf16=False,
    )  # fmt: skip
    frame = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    method.observe(frame, method.predict(frame))
    prediction = method.predict(frame)
    optimizer = method._optimizer
    assert optimizer is not None
    with Peak() as counted:
        for network in (method.student, loaded.network):
            counted.hold(network.state_dict())
        counted.hold(optimizer.state_dict())
        method.observe(frame, prediction)
    return counted.peak / 2**20


def by_scope(networks: list[str], size: tuple[int, int]) -> tuple[list[str], list[dict[str, Any]]]:
    """Lines of a table with a column a scope, and its figures."""
    lines = ["| network | " + " | ".join(f"{scope}, MiB" for scope in SCOPES) + " | norm : all |", "|---" * 6 + "|"]
    rows: list[dict[str, Any]] = []
    for network in networks:
        peaks = {scope: peak_of_a_step(network, size, slot) for scope, slot in SCOPES.items()}
        ratio = peaks["norm"] / peaks["all"]
        rows.append({"network": network, "size": list(size), "peak_mib": peaks, "norm_to_all": ratio})
        lines.append(f"| `{network}` | " + " | ".join(f"{peak:.0f}" for peak in peaks.values()) + f" | {ratio:.2f} |")
        print(lines[-1], flush=True)
    return lines, rows


def by_saving(networks: list[str], size: tuple[int, int]) -> tuple[list[str], list[dict[str, Any]]]:
    """Lines of a table with a column a value of the slot ``activations``, and its figures."""
    lines = ["| network, scope | " + " | ".join(f"{saving}, MiB" for saving in SAVINGS) + " |", "|---" * 5 + "|"]
    rows: list[dict[str, Any]] = []
    for network in networks:
        for scope in ("all", "norm"):
            peaks = {name: peak_of_a_step(network, size, SCOPES[scope], slot) for name, slot in SAVINGS.items()}
            rows.append({"network": network, "size": list(size), "scope": scope, "peak_mib": peaks})
            lines.append(f"| `{network}`, {scope} | " + " | ".join(f"{peak:.0f}" for peak in peaks.values()) + " |")
            print(lines[-1], flush=True)
    return lines, rows


def main() -> None:
    """Measures every network with every scope; prints a table, and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["segformer_b0"])
    parser.add_argument("--size", default="256x512")
    parser.add_argument("--savings", action="store_true", help="compares values of the slot activations, not scopes")
    parser.add_argument("--out", type=Path, help="writes OUT.md and OUT.json")
    options = parser.parse_args()
    lines, rows = (by_saving if options.savings else by_scope)(options.network, parse_tile(options.size))
    if options.out is not None:
        command = f"python -m benchmarks.step_memory --network {' '.join(options.network)} --size {options.size}"
        command += " --savings" if options.savings else ""
        text = f"# Memory of a learning step\n\n`{command}`\n\n{__doc__.split(chr(10) * 2)[2].strip()}\n\n"
        options.out.with_suffix(".md").write_text(text + "\n".join(lines) + "\n")
        options.out.with_suffix(".json").write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
