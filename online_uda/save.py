"""Networks out: ``python -m online_uda.save RUN|NETWORK --out DIR`` writes what was learned, with a model card."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_uda.errors import OK, USER_ERRORS, UserError, tell
from streams.arguments import OneLineParser

if TYPE_CHECKING:
    from online_uda.networks.checkpoints import LoadedNetwork

_EPILOG = """\
formats:
  own        config.json, model.safetensors (with the light head if it is trained), README.md: --network DIR loads it,
             and --network MODULE:FUNCTION@DIR where your own code builds the network
  hf         the same for a SegFormer as transformers reads it
  adapters   what adapters have learned in a run, alone: adapters.safetensors of kilobytes, and README.md;
             --network NETWORK@DIR puts them on the run's network again

examples:
  python -m online_uda.save runs/cs2rain-default-20261121-080509 --out my_rain_network
  python -m online_uda.save segformer_b0_town --format hf --out town_for_transformers
  python -m online_uda.save examples.unet:make@unet.pth --classes camvid11 --out unet
"""


_ALIGNED = (
    "Frames are moved to the look of the source images before the network sees them; config.json holds that look."
)
_NOT_ALIGNED = (
    "Learned on frames that were moved to the look of the source images. This format cannot hold that step, so without "
    "it the network answers weaker than in the run; take the format own, or ONNX, to keep it."
)


@dataclass(frozen=True)
class _Found:
    """What is to be saved: the network, where it comes from, and its scores."""

    loaded: LoadedNetwork
    origin: dict[str, Any]
    scores: list[tuple[str, str, str]]
    run: Any = None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; a user's mistake is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    flags = OneLineParser(
        prog="python -m online_uda.save", description="Saves a network, or what a run has learned.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    flags.add_argument("what", metavar="RUN|NETWORK", help="run folder, or what --network takes")
    flags.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must be new or empty")
    flags.add_argument("--format", dest="form", choices=("own", "hf", "adapters"), default="own", help="(default: own)")
    flags.add_argument("--classes", metavar="SET|FILE", help="classes of a network whose weights do not name them")
    flags.add_argument("--half", action="store_true", help="store float16, half the size, rounded")
    arguments = flags.parse_args(words)
    try:
        command = "python -m online_uda.save " + " ".join(words)
        print(save(**vars(arguments), command=command))
    except USER_ERRORS as error:
        return tell(error)
    return OK


def save(
    what: str, out: Path, form: str = "own", *, classes: str | None = None, half: bool = False, command: str = ""
) -> str:
    """Writes a network folder, or a file of adapters, with a model card.

    Args:
        what: Run folder, or what ``--network`` takes.
        out: Folder to write.
        form: ``own``, ``hf`` or ``adapters``.
        classes: Class set, registered or a file, of a network whose weights do not name their classes.
        half: Store floating-point tensors as float16, as far as that can hold them.
        command: For the card.

    Returns:
        One line for the user.

    Raises:
        UserError: Nothing to save, or it has no such format.
    """
    import torch

    from online_uda.networks.adapters import adapter_parameters
    from online_uda.networks.checkpoint_writer import save_folder, save_hf_folder

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists already; give a new folder")
    if (Path(what) / "config.yaml").is_file():
        if classes is not None:
            raise UserError(f"--classes {classes}: the run {what} knows its classes; drop it")
        found = _of_run(Path(what), form)
    else:
        found = _of_network(what, classes)
    loaded, dtype = found.loaded, torch.float16 if half else torch.float32
    origin = {**found.origin, "command": command, "date": datetime.now(timezone.utc).strftime("%Y-%m-%d")}
    if form == "adapters":
        _save_adapters(found, out)
    else:
        assert loaded.config is not None
        if any(True for _ in adapter_parameters(loaded.network)):
            raise UserError(
                f"{what}: has adapters that do not fold into weights; python -m online_uda.export writes it as ONNX"
            )
        names = loaded.weight_names or loaded.class_names
        if form == "hf":
            save_hf_folder(out, loaded.network, loaded.config, names, dtype)
        else:
            save_folder(out, loaded.network, loaded.config, names, origin, dtype, light_head=loaded.has_light_head)
    (out / "README.md").write_text(_card(found, origin, form, half), encoding="utf-8")
    size = sum(file.stat().st_size for file in out.iterdir())
    told = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    return f"{out}: {form} format, {told}"


def _of_network(what: str, class_set: str | None) -> _Found:
    from online_uda.networks.zoo import load_alone
    from streams.classes import CITYSCAPES_19, find_classes

    wanted = CITYSCAPES_19 if class_set is None else find_classes(class_set)
    loaded = load_alone(what, wanted)
    if class_set is not None:
        if loaded.class_names and loaded.class_names != wanted.names:
            raise UserError(f"--classes {class_set}: {what} names its classes itself; drop it")
        if loaded.network.classes != len(wanted):
            raise UserError(
                f"--classes {class_set}: has {len(wanted)} classes, {loaded.description} answers with "
                f"{loaded.network.classes}"
            )
        loaded = replace(loaded, class_names=wanted.names)
    return _Found(loaded, {"network": what}, [])


def _of_run(folder: Path, form: str) -> _Found:
    from online_uda.adaptation.deployed import deployed_alignment, deployed_weights
    from online_uda.networks.spec import NetworkOptions
    from online_uda.networks.zoo import load_network
    from online_uda.reports.run_folder import RunFolder
    from online_uda.resolve import resume_plan
    from online_uda.runtime.rng import seed_everything
    from online_uda.runtime.snapshot import latest_state

    run = RunFolder.reopen(folder)
    plan = resume_plan(run.config, {})
    state = latest_state(run.snapshots)
    if state is None:
        raise UserError(f"{folder}: has no snapshot yet, so nothing was learned; let it run for a while")
    seed_everything(plan.run.seed)  # a network with random weights is drawn again as in the run
    options = NetworkOptions(plan.run.init, plan.run.init_head, plan.run.classes)
    loaded = load_network(plan.run.network or "", plan.schedule.class_set, options)
    if not loaded.class_names:
        loaded = replace(loaded, class_names=plan.schedule.class_set.names)
    if form != "adapters":
        loaded.network.load_state_dict(deployed_weights(plan.method, state.method), strict=False)
        loaded.network.alignment = deployed_alignment(state.method)
    origin = {"run": str(folder), "network": plan.network_name, "method": plan.method_name,
              "schedule": plan.schedule.name, "frames": state.next_frame, "seed": plan.run.seed}  # fmt: skip
    return _Found(loaded, origin, _scores(folder / "summary.json"), (plan, state))


def _scores(path: Path) -> list[tuple[str, str, str]]:
    """Domain, adapted and frozen mIoU, of the run's summary where it is there."""
    if not path.is_file():
        return []
    rows = []
    for visit in json.loads(path.read_text(encoding="utf-8")).get("visits", []):
        adapted, frozen = visit.get("miou"), visit.get("miou_frozen")
        if adapted is not None and frozen is not None:
            rows.append((str(visit.get("domain")), f"{adapted:.2f}", f"{frozen:.2f}"))
    return rows


def _save_adapters(found: _Found, out: Path) -> None:
    import torch

    from online_uda.adaptation.deployed import adapter_config
    from online_uda.networks.adapter_file import save_adapters
    from online_uda.networks.adapters import insert_adapters
    from online_uda.networks.spec import NetworkOptions
    from online_uda.networks.zoo import load_network
    from online_uda.runtime.rng import seed_everything

    if found.run is None or found.run[0].method.adapters is None:
        what = found.origin.get("run", found.origin["network"])
        raise UserError(f"{what}: holds no adapters; only a run with the slot adapters does")
    plan, state = found.run
    seed_everything(plan.run.seed)
    options = NetworkOptions(plan.run.init, plan.run.init_head, plan.run.classes)
    network = load_network(plan.run.network or "", plan.schedule.class_set, options).network
    config = adapter_config(plan.method.adapters)
    source = {name: buffer.clone() for name, buffer in network.named_buffers() if "running_" in name}
    learned = state.method["student"]
    moved = {name: learned[name] for name, buffer in source.items()
             if name in learned and not torch.equal(learned[name].cpu(), buffer)}  # fmt: skip
    insert_adapters(network, config, seed=0)
    network.load_state_dict(learned, strict=False)
    out.mkdir(parents=True, exist_ok=True)
    save_adapters(out / "adapters.safetensors", network, config, moved)


def _card(found: _Found, origin: dict[str, Any], form: str, half: bool) -> str:
    from online_uda.networks.architecture import FunctionConfig, title

    loaded = found.loaded
    name = found.origin.get("network", "network") if loaded.config is None else title(loaded.config)
    lines = [f"# {name}", "", f"Saved from {loaded.description}.", "", "| what | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in origin.items() if value != ""]
    lines += [f"| format | {form}, {'float16' if half else 'float32'} |"]
    if loaded.network.alignment is not None:
        lines += ["", _ALIGNED if form == "own" else _NOT_ALIGNED]
    if isinstance(loaded.config, FunctionConfig) and form == "own":
        lines += ["", f"The weights of a network that {loaded.config.source} builds, which has to be there too: load "
                  f"them with `--network {loaded.config.source}@DIR`, DIR being this folder."]  # fmt: skip
    if form == "adapters":
        base = found.run[0].run.network
        how = f"`--network {base}@DIR` puts them on it again, DIR being this folder"
        lines += ["", f"Adapters alone, trained on {base}: {how}."]
    names = loaded.weight_names or loaded.class_names
    if names:
        lines += ["", "Classes in id order: " + ", ".join(names) + "."]
    if found.scores:
        lines += ["", "Scores of the run, each frame scored before it was learned from:", "",
                  "| domain | adapted mIoU | frozen mIoU |", "|---|---|---|"]  # fmt: skip
        lines += [f"| {domain} | {adapted} | {frozen} |" for domain, adapted, frozen in found.scores]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
