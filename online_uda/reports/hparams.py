"""Sessions of TensorBoard's HPARAMS page: settings of a run beside its scores, so that runs can be sorted and compared.

A session lies in a folder of its own that holds nothing but its metrics: the page takes every scalar of a session's
folder as a column. No experiment is declared: of several, TensorBoard would take the columns of one for all, while
without one it finds the settings of all runs, and which of them differ.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Setting = str | float
_LEFT_OUT = ("description",)


def settings_of(plan: Mapping[str, Any], method: str) -> dict[str, Setting]:
    """What a run is compared by: method, schedule, network and seed, and every slot of the method that is filled.

    Args:
        plan: `RunPlan.as_dict`.
        method: Name of the method.

    Returns:
        ``{"method": "tent", "seed": 0, "optimizer.learning_rate": 1e-3, ...}``; slots left empty have no entry.
    """
    run = plan["run"]
    named = {
        "method": method, "schedule": plan["schedule"]["name"], "network": Path(run["network"] or "").name,
        "seed": run["seed"],
    }  # fmt: skip
    return {**named, **flat({key: value for key, value in plan["method"].items() if key not in _LEFT_OUT})}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Nested settings by dotted key; numbers stay numbers, lists and booleans become text, None goes."""
    found: dict[str, Setting] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[prefix + key] = value
        elif value is not None:
            found[prefix + key] = json.dumps(value)
    return found


def metrics_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """What runs are compared in: percent of mIoU, points, the share of pixels on which frozen agrees, and updates.

    Args:
        summary: Of a run (schema ``online_uda.summary/1``).
    """
    told = [visit for visit in summary["visits"] if visit.get("agreement") is not None]
    frames = sum(visit["frames"] for visit in told)
    found = {
        "hmean": summary["hmean"],
        "gain": summary["hmean_delta"],
        "worst_visit": (summary["worst"] or {}).get("miou"),
        "worst_visit_gain": summary["harm"]["worst_visit_gain"],
        "agreement": sum(visit["agreement"] * visit["frames"] for visit in told) / frames if frames else None,
        "updates": summary["updates"],
    }
    return {key: float(value) for key, value in found.items() if value is not None}


def write_session(folder: Path, settings: Mapping[str, Setting], metrics: Mapping[str, float]) -> None:
    """Writes a session, in place of what the folder held.

    Args:
        folder: Of this session alone; its path below TensorBoard's ``--logdir`` is its name on the page.
        settings: By name.
        metrics: By name; the columns that sessions are sorted by.

    Raises:
        OSError: The folder cannot be written.
    """
    from torch.utils.tensorboard.summary import hparams, scalar
    from torch.utils.tensorboard.writer import FileWriter

    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    _, begun, ended = hparams(dict(settings), {})
    writer = FileWriter(str(folder))
    try:
        writer.add_summary(begun)
        for name, value in metrics.items():
            writer.add_summary(scalar(name, value), 0)
        writer.add_summary(ended)
    finally:
        writer.close()
