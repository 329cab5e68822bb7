"""Networks by name: SegFormer of every size with random weights, and the one trained on the built-in town."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from online_uda.errors import UserError
from online_uda.networks.catalogue import DEFAULT_NETWORK, NETWORK_DESCRIPTIONS
from online_uda.networks.checkpoints import LoadedNetwork, load_folder
from online_uda.networks.mit import MIT_VARIANTS
from online_uda.networks.segmenter import SegformerConfig, build_segformer, segformer_config
from streams.frame import ClassSet

WEIGHTS = Path(__file__).parent / "weights"
_PREFIX = "segformer_"


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """A network that can be asked for by name.

    Attributes:
        name: What the user types.
        factory: Makes the network for a class set.
        description: One line for ``--list networks``.
    """

    name: str
    factory: Callable[[ClassSet], LoadedNetwork]
    description: str


def segformer_sizes(name: str, classes: int) -> SegformerConfig:
    """The sizes of architecture ``name``, ``segformer_b0`` to ``segformer_b5``.

    Raises:
        UserError: For another name.
    """
    known = [_PREFIX + variant for variant in MIT_VARIANTS]
    if name not in known:
        raise UserError(f"network {name!r} is not one that can be trained; choose one of {', '.join(known)}")
    return segformer_config(name.removeprefix(_PREFIX), classes)


def _untrained(variant: str) -> NetworkEntry:
    name = _PREFIX + variant

    def build(classes: ClassSet) -> LoadedNetwork:
        config = segformer_sizes(name, len(classes))
        network = build_segformer(config)
        description = f"{name} (random weights, {len(classes)} classes)"
        return LoadedNetwork(network.eval(), classes.names, False, description, config)

    return NetworkEntry(name, build, NETWORK_DESCRIPTIONS[name])


def _shipped(name: str) -> NetworkEntry:
    return NetworkEntry(name, lambda classes: load_folder(WEIGHTS / name), NETWORK_DESCRIPTIONS[name])


NETWORKS: dict[str, NetworkEntry] = {
    entry.name: entry
    for entry in (
        _shipped(DEFAULT_NETWORK),
        *(_untrained(variant) for variant in MIT_VARIANTS),
    )
}


def load_network(name: str | Path, classes: ClassSet) -> LoadedNetwork:
    """A registered network, or the network in a folder, for a stream labelled with ``classes``.

    A folder that names the same classes in another order has its classifiers put into the order of ``classes``.

    Raises:
        UserError: For an unknown name, a damaged folder, or another number of classes.
    """
    entry = NETWORKS.get(str(name))
    if entry is not None:
        return fit_classes(entry.factory(classes), classes)
    folder = Path(name)
    if folder.exists() or len(folder.parts) > 1:
        return fit_classes(load_folder(folder), classes)
    near = difflib.get_close_matches(str(name), NETWORKS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"unknown network {str(name)!r}: {hint}--list networks shows all; a folder works as well")


def fit_classes(loaded: LoadedNetwork, classes: ClassSet) -> LoadedNetwork:
    """Checks a network against a class set, and reorders its outputs where only the order of names differs.

    Raises:
        UserError: If the numbers of classes differ.
    """
    outputs = int(loaded.network.light_head.classifier.out_channels)
    if outputs != len(classes):
        raise UserError(
            f"{loaded.description}: the stream is labelled with the {len(classes)} classes of {classes.name}; "
            f"this network has {outputs}; give a network of these classes or set the schedule's 'classes'"
        )
    own, wanted = _plain(loaded.class_names), _plain(classes.names)
    if not own or own == wanted:
        return loaded
    if sorted(own) != sorted(wanted):
        strange = [name for name in loaded.class_names if name.strip().lower() not in wanted]
        warnings.warn(
            f"{loaded.description}: {', '.join(strange[:4])} not in {classes.name}; classes are taken by position",
            stacklevel=2,
        )
        return loaded
    order = torch.tensor([own.index(name) for name in wanted])
    for head in (loaded.network.head, loaded.network.light_head):
        for parameter in head.get_submodule("classifier").parameters():
            parameter.data = parameter.data[order]
    return replace(loaded, class_names=classes.names, description=loaded.description + ", classes reordered by name")


def _plain(names: tuple[str, ...]) -> list[str]:
    return [name.strip().lower() for name in names]
