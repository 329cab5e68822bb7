"""Networks that other code builds: torchvision's segmentation models, and a function of the user's own."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from pathlib import Path

import torch
from torch import nn

from online_uda.errors import UserError
from online_uda.networks.weights_file import refuse_bad_values

TORCHVISION = "torchvision:"
TORCHVISION_MODELS = (
    "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
    "fcn_resnet50", "fcn_resnet101",
)  # fmt: skip


def torchvision_module(name: str, classes: int) -> nn.Module:
    """A segmentation model of torchvision with random weights and without its auxiliary classifier.

    Raises:
        UserError: For another name.
    """
    refuse_unknown(name)
    from torchvision.models import segmentation

    return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=classes)


def refuse_unknown(name: str) -> None:
    """Raises `UserError` for a name that is none of `TORCHVISION_MODELS`."""
    if name not in TORCHVISION_MODELS:
        near = difflib.get_close_matches(name, TORCHVISION_MODELS, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"network torchvision:{name}: unknown; {hint}choose one of {', '.join(TORCHVISION_MODELS)}")


def module_of_function(text: str, classes: int) -> nn.Module:
    """Calls ``module:function`` of the user's own code; ``classes`` is passed where the function has it.

    Raises:
        UserError: The module or function is missing, fails, or returns something else than a module.
    """
    module_name, _, function_name = text.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            plain = module_name.removesuffix(".py")
            hint = f"; a module is named without .py: {plain}:{function_name}" if plain != module_name else ""
            raise UserError(f"network {text}: no module {error.name} here or in the environment{hint}") from None
        raise UserError(f"network {text}: {module_name} needs {error.name}, which is not installed") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"network {text}: importing {module_name} failed: {_reason(error)}") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        near = difflib.get_close_matches(function_name, names, n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"network {text}: {module_name} has no function {function_name}{hint}")
    try:
        takes = "classes" in inspect.signature(function).parameters
        made = function(classes=classes) if takes else function()
    except (Exception, SystemExit) as error:
        raise UserError(f"network {text}: {function_name} failed: {_reason(error)}") from None
    if not isinstance(made, nn.Module):
        raise UserError(f"network {text}: {function_name} returned {type(made).__name__}; expected a torch.nn.Module")
    _check_values(made, text)
    return made


def _check_values(module: nn.Module, text: str) -> None:
    tensors = dict((*module.named_parameters(), *module.named_buffers()))
    unset = [name for name, tensor in tensors.items() if tensor.is_meta]
    if unset:
        raise UserError(f"network {text}: {unset[0]} has no values (device meta); load the weights before returning")
    other = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dtype != torch.float32]
    if other:
        raise UserError(
            f"network {text}: {other[0]} is {tensors[other[0]].dtype}; networks learn in float32: return "
            "module.float(), and ask for bf16 with run.precision=bf16"
        )
    refuse_bad_values(tensors, f"network {text}")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}" if str(error) else type(error).__name__
