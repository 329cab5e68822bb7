"""From a run or a network to a checked ONNX file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import Tensor

from online_uda.adaptation.deployed import deploy
from online_uda.adaptation.scope import norm_parameters
from online_uda.errors import UserError
from online_uda.export.graph import FRAMES, export_graph, movable_names, weights_of
from online_uda.export.parity import check_parity
from online_uda.export.session import open_session
from online_uda.inputs import frame_size
from online_uda.networks.catalogue import NETWORK_DESCRIPTIONS
from online_uda.networks.predictor import Wishes
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_alone, load_network
from online_uda.reports.run_folder import RunFolder
from online_uda.resolve import resume_plan
from online_uda.runtime.rng import seed_everything
from online_uda.runtime.snapshot import latest_state
from streams.classes import CITYSCAPES_19, find_classes

DEFAULT_SIZE = (256, 512)


@dataclass(frozen=True)
class _Found:
    """What is to be exported.

    Attributes:
        network: With the weights to export.
        class_names: In id order.
        size: Height and width of its frames; None where nothing says.
        origin: For the file's metadata.
    """

    network: Segmenter
    class_names: tuple[str, ...]
    size: tuple[int, int] | None
    origin: dict[str, str | int]


def export_file(
    what: str,
    out: Path,
    size: tuple[int, int] | None,
    movable: str,
    init: Literal["random"] | None = None,
    classes: str | None = None,
) -> str:
    """Exports, checks and writes; the file appears whole or not at all.

    Args:
        what: Run folder, or what ``--network`` takes.
        out: File to write.
        size: Height and width of frames; None takes the run's, or 256 x 512.
        movable: ``none``, ``norm`` (with the statistics of BatchNorm), ``head`` or ``all``.
        init: ``random`` draws the weights of a network that has none.
        classes: Class set that a network without classes of its own is built for; None takes Cityscapes'.

    Returns:
        One line for the user.

    Raises:
        UserError: Nothing to export, or the exported network does not answer as torch does.
    """
    found = _find(what, NetworkOptions(init, init, classes))
    size = size or found.size or DEFAULT_SIZE
    network = found.network.requires_grad_(False).eval()
    model = export_graph(network, size, _movable(network, movable))
    wishes = Wishes(moving=movable_names(model))
    facts = {"class_names": list(found.class_names), "size": list(size), "movable": list(wishes.moving)}
    onnx.helper.set_model_props(model, {"online_uda": json.dumps({**facts, **found.origin})})
    partial = out.with_name(out.name + ".partial")
    try:
        onnx.save(model, str(partial))
        session = open_session(str(partial), torch.device("cpu"), torch.get_num_threads())

        def answer(weights: Mapping[str, Tensor], frames: Tensor) -> list[Tensor]:
            feed = {FRAMES: frames.numpy(), **{name: value.numpy() for name, value in weights.items()}}
            return [torch.from_numpy(part) for part in session.run(None, feed)]

        parity = check_parity(answer, network, size, wishes)
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        partial.unlink(missing_ok=True)
    return (
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, frames {size[0]}x{size[1]}, {len(wishes.moving)} movable weights, "
        f"differs from torch by {parity:.1e} at most, also with perturbed weights"
    )


def _movable(network: Segmenter, scope: str) -> tuple[str, ...]:
    names = [name for name in weights_of(network) if name not in ("mean", "std")]
    if scope == "all":
        return tuple(names)
    if scope == "head":
        return tuple(name for name in names if name.startswith("head."))
    if scope == "norm":
        norms = {name for name, _ in norm_parameters(network)}
        return tuple(name for name in names if name in norms or name.endswith(("running_mean", "running_var")))
    return ()


def _find(what: str, options: NetworkOptions) -> _Found:
    folder = Path(what).expanduser()
    if what not in NETWORK_DESCRIPTIONS and (folder / "config.yaml").is_file():
        return _find_run(folder)
    classes = CITYSCAPES_19 if options.classes is None else find_classes(options.classes)
    loaded = load_alone(what, classes, replace(options, classes=None))
    return _Found(loaded.network, loaded.class_names, None, {"network": loaded.description})


def _find_run(folder: Path) -> _Found:
    run = RunFolder.reopen(folder)
    plan = resume_plan(run.config, {})
    state = latest_state(run.snapshots)
    if state is None:
        raise UserError(f"{folder}: holds no snapshot yet; nothing was adapted that could be exported")
    seed_everything(plan.run.seed)  # a network with random weights is drawn again as in the run
    loaded = load_network(
        plan.run.network or "",
        plan.schedule.class_set,
        NetworkOptions(plan.run.init, plan.run.init_head, plan.run.classes),
    )
    try:
        deploy(plan.method, state.method, loaded.network)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    origin: dict[str, str | int] = {
        "network": loaded.description, "run": str(folder), "method": plan.method_name, "frames": state.next_frame,
    }  # fmt: skip
    return _Found(loaded.network, plan.schedule.class_set.names, frame_size(plan), origin)
