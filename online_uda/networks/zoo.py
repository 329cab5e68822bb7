"""Networks by what ``--network`` says: a registered name, an encoder with a head, a description, or a folder."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from online_uda.errors import UserError
from online_uda.networks.adapter_file import load_adapters
from online_uda.networks.adapter_folding import merge_adapters
from online_uda.networks.adapter_layers import FOLDING
from online_uda.networks.architecture import (
    AnyConfig,
    FunctionConfig,
    ModuleConfig,
    NetworkConfig,
    build_network,
    config_of,
    refuse_unknown,
    title,
)
from online_uda.networks.catalogue import DEFAULT_NETWORK, NETWORK_DESCRIPTIONS
from online_uda.networks.checkpoints import LoadedNetwork, load_folder, load_path, load_weights
from online_uda.networks.class_merge import answer_in
from online_uda.networks.hub import fetch
from online_uda.networks.mit import MIT_VARIANTS
from online_uda.networks.module_segmenter import ModuleSegmenter
from online_uda.networks.own_code import load_own_code
from online_uda.networks.segmenter import segformer_config
from online_uda.networks.spec import (
    HUB,
    NetworkOptions,
    NetworkSpec,
    form_of,
    function_parts,
    parse_architecture,
    read_description,
    with_adapters,
)
from online_uda.networks.weights_file import WEIGHTS_FILE
from streams.classes import class_groups, find_classes
from streams.frame import ClassSet

WEIGHTS = Path(__file__).parent / "weights"
_PREFIX = "segformer_"


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """A network that can be asked for by name.

    Attributes:
        name: What the user types.
        factory: Makes the network for a class set, as the options say.
        description: One line for ``--list networks``.
    """

    name: str
    factory: Callable[[ClassSet, NetworkOptions], LoadedNetwork]
    description: str


def architecture(name: str, classes: int) -> AnyConfig:
    """The sizes of a network to be trained: ``segformer_b0`` to ``segformer_b5``, or an encoder with a head.

    Raises:
        UserError: For another name.
    """
    known = [_PREFIX + variant for variant in MIT_VARIANTS]
    if name in known:
        return segformer_config(name.removeprefix(_PREFIX), classes)
    form = form_of(name)
    if form == "architecture":
        return config_of(parse_architecture(name), classes)
    if form == "torchvision":
        return ModuleConfig(name, classes)
    if form == "description":
        return config_of(read_description(name)[0], classes)
    if form == "function":
        source, weights = function_parts(name)
        if weights is not None:
            raise UserError(f"network {name}: has weights already; train it further with --start {name}")
        return FunctionConfig(source, classes)
    raise UserError(
        f"network {name!r} is not one that can be trained; choose one of {', '.join(known)}, timm:NAME+HEAD, "
        f"module:function, or a description in YAML"
    )


def _untrained(name: str, config: AnyConfig, classes: ClassSet, options: NetworkOptions) -> LoadedNetwork:
    refuse_unknown(config)
    if options.init == "pretrained":
        if not isinstance(config, NetworkConfig) or not config.encoder.startswith("timm:"):
            raise UserError(
                f"network {name}: timm has no trained weights of it; give a file of weights as --network (an encoder's "
                f"own with --init-head random), or --init random"
            )
        if options.init_head is None:
            raise UserError(
                f"network {name}: init pretrained leaves the head untrained; say so with --init-head random"
            )
        description = f"{title(config)}: trained encoder from timm, random head"
    elif options.init == "random":
        description = f"{title(config)}: random weights"
    else:
        raise UserError(
            f"network {name}: has no trained weights; give a folder with a trained one, train it with "
            f"python -m online_uda.training --network {name}, or add --init random if random weights are meant"
        )
    network = build_network(config, pretrained=options.init == "pretrained")
    warnings.warn(f"{description}: what it predicts before training means nothing", stacklevel=3)
    return LoadedNetwork(network.eval(), classes.names, False, description, config)


def _by_size(variant: str) -> NetworkEntry:
    name = _PREFIX + variant

    def build(classes: ClassSet, options: NetworkOptions) -> LoadedNetwork:
        return _untrained(name, segformer_config(variant, len(classes)), classes, options)

    return NetworkEntry(name, build, NETWORK_DESCRIPTIONS[name])


def _shipped(name: str) -> NetworkEntry:
    return NetworkEntry(name, lambda classes, options: load_folder(WEIGHTS / name), NETWORK_DESCRIPTIONS[name])


NETWORKS: dict[str, NetworkEntry] = {
    entry.name: entry
    for entry in (
        _shipped(DEFAULT_NETWORK),
        *(_by_size(variant) for variant in MIT_VARIANTS),
    )
}


def load_network(name: str | Path, classes: ClassSet, options: NetworkOptions | None = None) -> LoadedNetwork:
    """The network that ``name`` says, for a stream labelled with ``classes``.

    A folder that names the same classes in another order has its classifiers put into the order of ``classes``.

    Args:
        name: See `online_uda.networks.spec.form_of`.
        classes: Label space of the stream.
        options: What the run says beside the name.

    Raises:
        UserError: For an unknown name, a damaged folder, or another number of classes.
    """
    options = options or NetworkOptions()
    trained = classes if options.classes is None else find_classes(options.classes)
    return fit_classes(load_alone(name, trained, options), classes, options.classes)


def load_alone(name: str | Path, classes: ClassSet, options: NetworkOptions | None = None) -> LoadedNetwork:
    """The network that ``name`` says, answering in its own classes.

    Args:
        name: See `online_uda.networks.spec.form_of`.
        classes: What a network is built for that has no classes of its own yet.
        options: What the user says beside the name.

    Raises:
        UserError: For an unknown name, or a damaged folder.
    """
    text, options = str(name), options or NetworkOptions()
    form = form_of(text)
    adapters = with_adapters(text)
    if adapters is not None:
        return _adapted(load_alone(adapters[0], classes, options), adapters[1])
    if options.init is not None and (text == DEFAULT_NETWORK or form in ("path", "hub")):
        raise UserError(f"network {text}: has trained weights, and --init {options.init} would not be used; drop it")
    if options.init is not None and form == "function":
        raise UserError(f"network {text}: your own code makes its weights; drop --init {options.init}")
    if options.init_head is not None and (text == DEFAULT_NETWORK or form == "function"):
        raise UserError(f"network {text}: --init-head random would not be used; drop it")
    if form == "name":
        return NETWORKS[text].factory(classes, options)
    if form == "architecture":
        return _described(text, parse_architecture(text), Path(), classes, options)
    if form == "description":
        return _described(text, *read_description(text), classes, options)
    if form == "torchvision":
        return _untrained(text, ModuleConfig(text, len(classes)), classes, options)
    if form == "function":
        return load_own_code(text, classes)
    if form == "hub":
        wanted = (("config.json",), (WEIGHTS_FILE, "pytorch_model.bin"))
        advice = "download it elsewhere and give the folder"
        path = fetch(text.removeprefix(HUB), wanted, f"network {text}", advice)
    else:
        path = Path(name).expanduser()
    if path.exists() or len(path.parts) > 1:
        return load_path(path, init_head=options.init_head, classes=len(classes))
    near = difflib.get_close_matches(text, NETWORKS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"unknown network {text!r}: {hint}--list networks shows all; a folder works as well")


def _adapted(loaded: LoadedNetwork, file: Path) -> LoadedNetwork:
    """A network with what adapters have learned on it: folded into its weights, or inserted where they do not fold."""
    config = load_adapters(file, loaded.network)
    if config.kind in FOLDING:
        merge_adapters(loaded.network, config)
    return replace(loaded, description=f"{loaded.description}, {config.kind} adapters of {file}")


def _described(text: str, spec: NetworkSpec, file: Path, classes: ClassSet, options: NetworkOptions) -> LoadedNetwork:
    config = config_of(spec, len(classes))
    if spec.weights is None:
        merged = replace(options, init=options.init or spec.init, init_head=options.init_head or spec.init_head)
        return _untrained(text, config, classes, merged)
    path = file.parent / spec.weights
    network = build_network(config)
    has_light = load_weights(network, path)
    return LoadedNetwork(network.eval(), classes.names, has_light, f"{title(config)} from {path}", config)


def fit_classes(loaded: LoadedNetwork, classes: ClassSet, own_set: str | None = None) -> LoadedNetwork:
    """Checks a network against a class set, and makes it answer in it.

    Where the same classes stand in another order, the classifiers are reordered. Where ``own_set`` names another label
    space, the network's probabilities are added up by what its classes mean.

    Raises:
        UserError: If the numbers of classes differ, or no class means the same.
    """
    outputs = loaded.network.classes
    if own_set is not None:
        return _translated(loaded, find_classes(own_set), classes)
    if outputs != len(classes):
        raise UserError(
            f"{loaded.description}: the stream is labelled with the {len(classes)} classes of {classes.name}; "
            f"this network has {outputs}; name its own classes with --classes SET|FILE.yaml, give a network of these "
            f"classes, or set the schedule's 'classes'"
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
    if isinstance(loaded.network, ModuleSegmenter):  # nobody knows which of its layers classifies
        answer_in(loaded.network, [(own.index(name),) for name in wanted])
        return replace(
            loaded, class_names=classes.names, weight_names=loaded.class_names,
            description=loaded.description + ", classes reordered by name",
        )  # fmt: skip
    order = torch.tensor([own.index(name) for name in wanted])
    for head in (loaded.network.head, loaded.network.light_head):
        for parameter in head.get_submodule("classifier").parameters():
            parameter.data = parameter.data[order]
    return replace(loaded, class_names=classes.names, description=loaded.description + ", classes reordered by name")


def _translated(loaded: LoadedNetwork, own: ClassSet, classes: ClassSet) -> LoadedNetwork:
    if loaded.network.classes != len(own):
        raise UserError(
            f"{loaded.description}: --classes {own.name} has {len(own)} classes, the network {loaded.network.classes}"
        )
    groups = class_groups(own, classes)
    unknown = [name for name, group in zip(classes.names, groups, strict=True) if not group]
    if len(unknown) > len(classes) - 2:
        raise UserError(f"{loaded.description}: no two classes of {own.name} mean any of {classes.name}")
    if unknown:
        warnings.warn(f"{own.name} has no class for {', '.join(unknown)} of {classes.name}", stacklevel=4)
    answer_in(loaded.network, groups)
    return replace(
        loaded, class_names=classes.names, weight_names=own.names,
        description=f"{loaded.description}, {own.name} as {classes.name}",
    )  # fmt: skip


def _plain(names: tuple[str, ...]) -> list[str]:
    return [name.strip().lower() for name in names]
