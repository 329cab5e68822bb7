"""Networks from a folder or a file, strictly, whatever dialect it is written in.

Own format: a folder with `config.json` (``"format": "online_uda.network/1"``) and `model.safetensors`. Folders of
Hugging Face's SegFormer and of segmentation_models_pytorch are read by their `config.json`, files by the names in them.
Nothing is ever loaded in part: a missing, unexpected or misshapen tensor is an error that lists the difference. The
light head is the one exception, and it is reported as absent.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from online_uda.errors import UserError
from online_uda.networks.alignment import InputAlignment
from online_uda.networks.architecture import (
    AnyConfig,
    FunctionConfig,
    build_network,
    title,
)
from online_uda.networks.checkpoint_writer import ALIGNMENT, CONFIGS, FORMAT
from online_uda.networks.dialects import Translation, translate
from online_uda.networks.hf_segformer import config_from_hf, from_hf
from online_uda.networks.segmenter import SegformerConfig, Segmenter
from online_uda.networks.spec import ADAPTERS_FILE, adapters_alone, holds_adapters
from online_uda.networks.weights_file import (
    WEIGHTS_FILE,
    load_strict,
    read_weights,
    read_weights_file,
    refuse_lfs_pointer,
)


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network with its provenance.

    Attributes:
        network: In eval mode, float32, on the CPU.
        class_names: In id order; empty where the checkpoint names none.
        has_light_head: Whether the checkpoint held a trained light head.
        description: Where it came from and what was loaded, one line.
        config: What `build_network` needs to build it again; None where nobody has said.
        weight_names: Names of what the weights themselves answer, where the network answers in other classes or in
            another order; empty where `class_names` are theirs.
    """

    network: Segmenter
    class_names: tuple[str, ...]
    has_light_head: bool
    description: str
    config: AnyConfig | None = None
    weight_names: tuple[str, ...] = ()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        refuse_lfs_pointer(path, path.read_bytes()[:64])
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def load_path(path: Path, *, init_head: str | None = None, classes: int | None = None) -> LoadedNetwork:
    """Loads a folder, or a file of weights.

    Args:
        path: See the module's docstring.
        init_head: ``random`` where the head of a file that holds an encoder alone is meant to be untrained.
        classes: Outputs of such a head.

    Raises:
        UserError: Nothing is there, it is damaged, or it is of an architecture that is not known.
    """
    if not path.is_file():
        return load_folder(path, init_head=init_head, classes=classes)
    if path.name == "config.json":
        raise UserError(f"{path}: is a file; give the folder that holds config.json and {WEIGHTS_FILE}")
    found = read_weights_file(path)
    return _from_elsewhere(translate(found.weights, path), path, found.class_names, init_head, classes)


def load_folder(
    folder: Path, function: str | None = None, *, init_head: str | None = None, classes: int | None = None
) -> LoadedNetwork:
    """Loads a network folder of our own format, of Hugging Face's SegFormer, or of segmentation_models_pytorch.

    Args:
        folder: See the module's docstring.
        function: ``module:function`` that builds the network, for weights that were saved from the user's own code.
            It is called because the user names it, never because a file does.
        init_head: ``random`` where the head of a folder that holds an encoder alone is meant to be untrained.
        classes: Outputs of such a head.

    Raises:
        UserError: If the folder, its config or its weights are missing, damaged or of another architecture.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such network folder")
    config_path = folder / "config.json"
    if not config_path.is_file():
        if holds_adapters(folder / ADAPTERS_FILE):
            raise UserError(adapters_alone(folder))
        raise UserError(f"{folder}: has no config.json; give a folder with config.json and {WEIGHTS_FILE}")
    content = _read_json(config_path)
    weights_path = _weights_file(folder)
    config: AnyConfig
    if content.get("format") == FORMAT:
        config, names = _own_config(content, config_path)
        weights, dialect = read_weights(weights_path), "own format"
        unknown: list[str] = []
    elif content.get("model_type") == "segformer":
        config, names = config_from_hf(content, str(config_path))
        weights, unknown = from_hf(read_weights(weights_path))
        dialect = "Hugging Face SegFormer"
        if not any(name.startswith("head.") for name in weights):
            alone = Translation(f"{dialect}, encoder only", weights, tuple(unknown), None, config.encoder)
            return _from_elsewhere(alone, weights_path, (), init_head, classes)
    elif "_model_class" in content and function is None:
        _check_smp(content, config_path)
        return _from_elsewhere(
            translate(read_weights(weights_path), weights_path), weights_path, (), init_head, classes
        )
    else:
        found = content.get("model_type") or content.get("architecture") or content.get("format")
        raise UserError(f"{config_path}: architecture {found!r} is not supported; expected model_type 'segformer'")
    if init_head is not None:
        raise UserError(f"{folder}: holds a whole network, and --init-head random would not be used; drop it")
    config = _with_function(config, function, folder)
    network = build_network(config)
    has_light = load_strict(network, weights, weights_path, unknown=unknown)
    network.alignment = _alignment(content, config_path)
    description = _describe(str(folder), dialect, len(weights), config.classes, has_light)
    return LoadedNetwork(network.eval(), names, has_light, description, config)


def _with_function(config: AnyConfig, function: str | None, folder: Path) -> AnyConfig:
    if isinstance(config, FunctionConfig):
        if function is None:
            raise UserError(
                f"{folder}: holds the weights alone, your own code {config.source} builds the network; "
                f"give --network {config.source}@{folder}"
            )
        return replace(config, source=function)
    if function is not None:
        raise UserError(f"{folder}: holds {title(config)}, not weights of {function}; give --network {folder}")
    return config


def _describe(place: str, dialect: str, tensors: int, classes: int, has_light: bool, note: str = "") -> str:
    light = "with" if has_light else "without"
    extra = f", {note}" if note else ""
    return f"{place} ({dialect}, {tensors} tensors, {classes} classes, {light} light head{extra})"


def _check_smp(content: Mapping[str, Any], path: Path) -> None:
    kind, encoder = content.get("_model_class"), str(content.get("encoder_name"))
    if kind != "Segformer" or not encoder.startswith("mit_b"):
        raise UserError(
            f"{path}: smp {kind} with {encoder} is not read as a folder, only Segformer with mit_b0 to mit_b5; build "
            f"it in a function with smp.from_pretrained and give --network module:function"
        )


def _from_elsewhere(
    translated: Translation, path: Path, names: tuple[str, ...], init_head: str | None, classes: int | None
) -> LoadedNetwork:
    config, note = translated.config, translated.note
    left_out: tuple[str, ...] = ()
    if config is None:
        assert translated.encoder is not None
        if init_head != "random" or classes is None:
            raise UserError(
                f"{path}: holds an encoder alone ({translated.dialect}), without a decode head; give a whole network, "
                f"or add --init-head random if an untrained head is meant"
            )
        head_width = 256 if sum(translated.encoder.depths) <= 8 else 768  # as published: B0 and B1, and the larger ones
        config = SegformerConfig(translated.encoder, classes, head_width)
        left_out, note = ("head.",), "random head"
        warnings.warn(f"{path}: its head is random: what it predicts before training means nothing", stacklevel=4)
    elif init_head is not None:
        raise UserError(
            f"{path}: holds a whole network ({translated.dialect}), and --init-head random would not be used; drop it"
        )
    network = build_network(config)
    has_light = load_strict(network, translated.weights, path, unknown=translated.unknown, left_out=left_out)
    names = names if len(names) == config.classes else ()
    described = _describe(str(path), translated.dialect, len(translated.weights), config.classes, has_light, note)
    return LoadedNetwork(network.eval(), names, has_light, described, config)


def load_weights(network: Segmenter, path: Path) -> bool:
    """Fills ``network`` with the tensors of a file in our names, strictly; tells whether a light head was among them.

    Raises:
        UserError: The file is damaged, or is of another architecture.
    """
    return load_strict(network, read_weights(path), path)


def _weights_file(folder: Path) -> Path:
    for name in (WEIGHTS_FILE, "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
        if (folder / f"{name}.index.json").is_file():
            raise UserError(
                f"{folder}: its weights are in several files ({name}.index.json lists them); save it in one piece: "
                f"save_pretrained(DIR, max_shard_size='50GB')"
            )
    if (folder / "tf_model.h5").is_file():
        raise UserError(f"{folder}: tf_model.h5 holds weights for TensorFlow; download {WEIGHTS_FILE} beside it")
    raise UserError(f"{folder}: has no {WEIGHTS_FILE} beside its config.json")


def _own_config(content: Mapping[str, Any], path: Path) -> tuple[AnyConfig, tuple[str, ...]]:
    try:
        names = TypeAdapter(tuple[str, ...]).validate_python(content["class_names"])
        for key, kind in CONFIGS.items():
            if key in content and kind is not SegformerConfig:
                return TypeAdapter(kind).validate_python(content[key]), names
        return TypeAdapter(SegformerConfig).validate_python(content["segformer"]), names
    except KeyError as error:
        raise UserError(f"{path}: not a {FORMAT} config; key {error} is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a {FORMAT} config; {where}: {first['msg']}") from None


def _alignment(content: Mapping[str, Any], path: Path) -> InputAlignment | None:
    values = content.get(ALIGNMENT)
    if values is None:
        return None
    try:
        return InputAlignment.from_dict(values)
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{path}: {ALIGNMENT} does not hold what this version writes; save the network again") from None
