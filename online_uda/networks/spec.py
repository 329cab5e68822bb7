"""What ``--network`` may say, recognised and checked without torch: forms of a name, and a network's YAML file."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from online_uda.errors import UserError
from online_uda.networks.catalogue import NETWORK_DESCRIPTIONS
from streams.yaml_config import ConfigModel, KeyedError, Located, build, load_yaml

Form = Literal["name", "architecture", "torchvision", "description", "function", "hub", "path", "adapters"]
MIT_ENCODERS = tuple(f"mit_b{size}" for size in range(6))
HEAD_KINDS = ("segformer", "daformer", "upernet", "deeplabv3plus")
FUSIONS = ("conv1", "aspp", "sep_aspp", "isa", "sepaspp_bottleneck")
DEFAULT_WIDTHS = {"segformer": 256, "daformer": 256, "upernet": 512, "deeplabv3plus": 256}
HUB = "hf:"
ADAPTERS_FILE = "adapters.safetensors"
ADAPTERS_FORMAT = "online_uda.adapters/1"
DESCRIPTIONS = Path(__file__).resolve().parents[2] / "configs" / "networks"
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*:[A-Za-z_]\w*)(@(.*))?\Z")
_ENCODER = re.compile(r"(timm:[\w.-]+?|mit_\w+?)(\+([a-z0-9]+)(\.(\w+))?)?\Z")

Triple = tuple[Annotated[float, Field(ge=0.0, le=1.0)], Annotated[float, Field(ge=0.0, le=1.0)],
               Annotated[float, Field(ge=0.0, le=1.0)]]  # fmt: skip
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Side = Annotated[int, Field(ge=32, le=8192)]


class NetworkSpec(ConfigModel):
    """An encoder with a head: the keys of a network's YAML file.

    Attributes:
        description: One line for people.
        encoder: ``timm:NAME`` or ``mit_b0`` to ``mit_b5``.
        head: ``segformer``, ``daformer``, ``upernet`` or ``deeplabv3plus``.
        fusion: Of DAFormer's head.
        width: Channels inside the head; None takes the head's usual one.
        light_width: Channels inside the light head on stage 1.
        dropout: Before the classifier, while training.
        drop_path: Largest stochastic-depth rate of the encoder, while training.
        image_size: Height and width that frames are brought to, only for encoders of one size (BEiT).
        mean: Channel means of the input; None takes the encoder's.
        std: Channel standard deviations; None takes the encoder's.
        init: ``random``: all weights are drawn. ``pretrained``: the encoder's are downloaded by timm.
        init_head: ``random`` says that an untrained head is meant.
        weights: File with the weights of the whole network, beside the YAML file.
    """

    description: str = ""
    encoder: str = Field(min_length=1)
    head: Literal["segformer", "daformer", "upernet", "deeplabv3plus"] = "segformer"
    fusion: Literal["conv1", "aspp", "sep_aspp", "isa", "sepaspp_bottleneck"] | None = None
    width: int | None = Field(None, ge=8, le=4096)
    light_width: int = Field(64, ge=4, le=1024)
    dropout: Rate = 0.1
    drop_path: Rate = 0.0
    image_size: tuple[Side, Side] | None = None
    mean: Triple | None = None
    std: Triple | None = None
    init: Literal["random", "pretrained"] | None = None
    init_head: Literal["random"] | None = None
    weights: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.encoder.startswith("timm:") and self.encoder not in MIT_ENCODERS:
            near = difflib.get_close_matches(self.encoder, MIT_ENCODERS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise KeyedError(f"{self.encoder!r} is unknown; {hint}expected timm:NAME or mit_b0 to mit_b5", "encoder")
        if self.fusion is not None and self.head != "daformer":
            raise KeyedError(f"belongs to head daformer, not to {self.head}; drop it", "fusion")
        if self.std is not None and 0.0 in self.std:
            raise KeyedError("a standard deviation of 0 cannot be divided by", "std")
        if self.weights is not None and self.init is not None:
            raise KeyedError("weights and init exclude each other; drop one", "weights")
        return self


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What a run says beside the network's name.

    Attributes:
        init: See `NetworkSpec`.
        init_head: See `NetworkSpec`.
        classes: Class set that the network was trained on, where it is not the stream's: a registered name or a file.
    """

    init: Literal["random", "pretrained"] | None = None
    init_head: Literal["random"] | None = None
    classes: str | None = None


def described_networks() -> dict[str, Path]:
    """Files in configs/networks by the name that ``--network`` takes."""
    return {file.stem: file for file in sorted(DESCRIPTIONS.glob("*.yaml"))}


def form_of(name: str) -> Form:
    """Which of the forms a text after ``--network`` has; everything that looks like none is a path."""
    if name in NETWORK_DESCRIPTIONS:
        return "name"
    if with_adapters(name) is not None:
        return "adapters"
    if name.startswith(HUB):
        return "hub"
    if name.startswith("torchvision:"):
        return "torchvision"
    if name.startswith(("timm:", "mit_")) and not Path(name).exists():
        return "architecture"
    if name in described_networks() or Path(name).suffix in (".yaml", ".yml", ".json"):
        return "description"
    if _FUNCTION.match(name) and not Path(name).exists():
        return "function"
    return "path"


def with_adapters(text: str) -> tuple[str, Path] | None:
    """Of ``NETWORK@DIR`` or ``NETWORK@FILE`` the network and the file of adapters; None where it names none."""
    base, _, place = text.rpartition("@")
    if not base or not place or Path(text).exists():
        return None
    path = Path(place).expanduser()
    file = path / ADAPTERS_FILE if path.is_dir() else path
    return (base, file) if holds_adapters(file) else None


def holds_adapters(file: Path) -> bool:
    """Whether a file is what ``online_uda.save --format adapters`` writes, by its first bytes."""
    try:
        with file.open("rb") as opened:
            return ADAPTERS_FORMAT.encode() in opened.read(4096)
    except OSError:
        return False


def adapters_alone(place: Path) -> str:
    """What a user is told who gives adapters where a network is expected."""
    return f"{place}: holds adapters alone; give --network NETWORK@{place} with the network that they were trained on"


def function_parts(text: str) -> tuple[str, str | None]:
    """``module:function`` and, where it ends in ``@WEIGHTS``, the folder or file that its weights are in."""
    match = _FUNCTION.match(text)
    assert match is not None, text
    return match[1], match[3]


def parse_architecture(text: str) -> NetworkSpec:
    """``timm:resnet18``, ``timm:resnet18+upernet`` or ``mit_b0+daformer.isa``; the head is segformer by default.

    Raises:
        UserError: Another form, or an unknown head or fusion.
    """
    match = _ENCODER.match(text)
    if match is None:
        raise UserError(f"network {text!r}: expected ENCODER+HEAD, such as timm:resnet18+segformer or mit_b0+daformer")
    encoder, head, fusion = match[1], match[3] or "segformer", match[5]
    for what, value, known in (("head", head, HEAD_KINDS), ("fusion", fusion, FUSIONS)):
        if value is not None and value not in known:
            near = difflib.get_close_matches(value, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"network {text!r}: unknown {what} {value!r}; {hint}choose one of {', '.join(known)}")
    keys = {"encoder": encoder, "head": head, **({} if fusion is None else {"fusion": fusion})}
    return build(NetworkSpec, Located(f"network {text!r}", keys, {}, {(): f"network {text!r}"}))


def read_description(name: str) -> tuple[NetworkSpec, Path]:
    """A network's YAML or JSON file, by its path or its name in configs/networks; with the file's own path.

    Raises:
        ConfigError: With a line for every fault.
    """
    path = described_networks().get(name, Path(name))
    spec = build(NetworkSpec, load_yaml(path))
    if spec.weights is not None and not (path.parent / spec.weights).is_file():
        raise UserError(f"{path}: weights: no file {path.parent / spec.weights}")
    return spec, path
