"""The configuration names of seed 004 as methods: which recipe each is here, or why there is none.

The names are those of a command list over DAFormer and Dual Soft-Paste (specs/seed-systems.md 8.3). A name speaks of an
encoder, of a head and of options; ``--method`` takes the options, the network stays ``--network``'s affair.
"""

from __future__ import annotations

from dataclasses import dataclass

from online_uda.errors import UserError

SOFT, PASTE, MMD = "mixing.opacity=0.9", "mixing.rare=2", "objectives.discrepancy.weight=0.005"
RARE = "replay.sampling=rare_class"
SWIN_S, SWIN_B, SWIN_L = (f"timm:swin_{size}_patch4_window7_224" for size in ("small", "base", "large"))
CONVNEXT_S, CONVNEXT_B, CONVNEXT_L = (f"timm:convnext_{size}" for size in ("small", "base", "large"))


@dataclass(frozen=True, slots=True)
class Preset:
    """What a name stands for.

    Attributes:
        method: File in configs/methods; None where the name is not supported.
        overrides: ``key=value`` texts on top of it.
        network: What ``--network`` takes for the encoder and head that the name speaks of.
        reason: Why the name is not supported.
    """

    method: str | None
    overrides: tuple[str, ...] = ()
    network: str = ""
    reason: str = ""


def _dacs(encoder: str, *options: str) -> Preset:
    return Preset("dacs", options, f"{encoder}+daformer")


def _daformer(encoder: str, *options: str) -> Preset:
    return Preset("daformer", options, f"{encoder}+daformer")


def _single_stride(encoder: str) -> Preset:
    reason = f"{encoder} gives maps at one stride only, and networks here need maps at strides 4 to 32"
    return Preset(None, reason=f"{reason}; the recipe alone is --method dacs or daformer")


_ORACLE = Preset(None, reason="it trains on labels of the target, which no method here ever sees")

SEED_004: dict[str, Preset] = {
    "daformer_swinB_src": Preset("frozen", network=f"{SWIN_B}+daformer"),
    "daformer_swinB_uda": _dacs(SWIN_B),
    "daformer_swinB_uda_soft": _dacs(SWIN_B, SOFT),
    "daformer_swinB_uda_soft_paste": _dacs(SWIN_B, SOFT, PASTE),
    "daformer_swinB_uda_soft_paste_mmd": _dacs(SWIN_B, SOFT, PASTE, MMD),
    "daformer_swinB_uda_soft_paste_mmd_rare": _dacs(SWIN_B, SOFT, PASTE, MMD, RARE),
    "daformer_swinB_oral": _ORACLE,
    "daformer_convnextB_src": Preset("frozen", network=f"{CONVNEXT_B}+daformer"),
    "daformer_convnextB_uda": _dacs(CONVNEXT_B),
    "daformer_convnextB_uda_soft_paste_mmd": _dacs(CONVNEXT_B, SOFT, PASTE, MMD),
    "daformer_convnextB_uda_soft_paste_mmd_rare": _dacs(CONVNEXT_B, SOFT, PASTE, MMD, RARE),
    "daformer_convnextB_oral": _ORACLE,
    "gta2cs_uda_warm_fdthings_rcs_croppl_a999_daformer_mitb5_s0": Preset("daformer", network="mit_b5+daformer"),
    "mitb_5_src": Preset("frozen", network="mit_b5+daformer"),
    "uda_daformer_swinS": _daformer(SWIN_S),
    "uda_daformer_swinL224": _daformer(SWIN_L),
    "uda_daformer_swinL224_mmd_soft": _daformer(SWIN_L, MMD, SOFT),
    "uda_daformer_swinB_soft": _daformer(SWIN_B, SOFT),
    "uda_daformer_swinB_soft_mmd": _daformer(SWIN_B, SOFT, MMD),
    "uda_daformer_swinB_soft_paste": _daformer(SWIN_B, SOFT, PASTE),
    "uda_daformer_swinB_soft_paste_mmd": _daformer(SWIN_B, SOFT, PASTE, MMD),
    "uda_daformer_convnextS": _daformer(CONVNEXT_S),
    "uda_daformer_convnextB": _daformer(CONVNEXT_B),
    "uda_daformer_convnextL": _daformer(CONVNEXT_L),
    "uda_daformer_convnextB_soft_mmd": _daformer(CONVNEXT_B, SOFT, MMD),
    "uda_daformer_convnextB_soft_paste": _daformer(CONVNEXT_B, SOFT, PASTE),
    "uper_fcn_swinB_uda_soft_paste_mmd_rare": Preset("dacs", (SOFT, PASTE, MMD, RARE), f"{SWIN_B}+upernet"),
    "uper_mae_uda": _single_stride("MAE's ViT"),
    "uper_mae_DAFormer": _single_stride("MAE's ViT"),
    "uper_beit_uda": _single_stride("BEiT"),
    "uper_beit_DAFomer": _single_stride("BEiT"),
}  # fmt: skip


def preset(name: str) -> Preset | None:
    """What a name of seed 004 stands for; None for any other.

    Raises:
        UserError: The name is known and not supported; one line says why.
    """
    found = SEED_004.get(name)
    if found is not None and found.method is None:
        raise UserError(f"method {name}: unsupported because {found.reason}")
    return found
