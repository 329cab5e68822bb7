"""Networks of the user's own code: ``module:function``, or ``module:function@WEIGHTS`` with weights from the disk."""

from __future__ import annotations

from pathlib import Path

from online_uda.errors import UserError
from online_uda.networks.architecture import FunctionConfig, build_network
from online_uda.networks.checkpoints import LoadedNetwork, load_folder
from online_uda.networks.module_segmenter import PREFIX, ModuleSegmenter
from online_uda.networks.spec import function_parts
from online_uda.networks.weights_file import load_strict, read_weights_file
from streams.frame import ClassSet


def load_own_code(text: str, classes: ClassSet) -> LoadedNetwork:
    """Calls the function, and fills what it returns where weights are named.

    Args:
        text: ``module:function``; behind an ``@`` a folder that `online_uda.save` wrote, or a file of the module's own
            state dict.
        classes: What the function is asked for, where it takes ``classes`` and no folder says how many.

    Raises:
        UserError: The code fails or returns no network, or the weights are not of it.
    """
    source, place = function_parts(text)
    if place is None:
        network = build_network(FunctionConfig(source, len(classes)))
        return _described(network, (), False, source, "as the function made it")
    path = Path(place).expanduser()
    if not place or not path.exists():
        raise UserError(f"network {text}: no folder or file {place!r} with its weights")
    if path.is_dir():
        loaded = load_folder(path, source)
        return _described(loaded.network, loaded.class_names, loaded.has_light_head, source, loaded.description)
    found = read_weights_file(path)
    network = build_network(FunctionConfig(source, len(classes)))
    load_strict(network, {PREFIX + name: tensor for name, tensor in found.weights.items()}, path)
    names = found.class_names if len(found.class_names) == network.classes else ()
    return _described(network, names, False, source, f"weights of {path}")


def _described(network: object, names: tuple[str, ...], has_light: bool, source: str, weights: str) -> LoadedNetwork:
    assert isinstance(network, ModuleSegmenter)
    stages = [f"{stage.units[-1]} (stride {stage.stride}, {stage.width} channels)" for stage in network.found.stages]
    found = f"stages ending in {', '.join(stages)}" if stages else "no stages, so the detector sees colours and edges"
    description = f"{source} ({network.classes} classes, {found}; {weights})"
    config = FunctionConfig(source, network.classes, int(network.light_head.project.out_channels))
    return LoadedNetwork(network.eval(), names, has_light, description, config)
