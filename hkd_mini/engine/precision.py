"""The numbers that a network computes in: float32, TF32 or bfloat16, chosen by the
hardware, here and nowhere else.

bfloat16 halves the traffic and, where a device multiplies it natively, more than
doubles the speed. Where it does not, every product is emulated, and a network runs 20
to 60 times slower than in float32. So "auto" asks the device:

    CUDA             bf16 from Ampere on (compute capability 8.0), else fp32
    x86 processors   bf16 with AVX512-BF16 or AMX, else fp32; fp32 too where
                     ONEDNN_MAX_CPU_ISA forbids them
    all else         fp32, Apple's processors and GPUs among them

Weights, Adam's moments and sampled paths stay float32 in every choice: bfloat16 is
autocast's, for the network alone. Chapter: 10 "Training".
Source: torch.amp (which operations change), oneDNN's CPU dispatcher control.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from functools import lru_cache

import torch

PRECISIONS = ("auto", "bf16", "tf32", "fp32")
NATIVE_ISA = ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10")
log = logging.getLogger("hkd_mini")


def checked(precision: str) -> str:
    """The name of a precision, or a ValueError that lists them."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}: one of {', '.join(PRECISIONS)}")
    return precision


def native_bf16(device: str | torch.device = "cpu") -> str:
    """The unit of `device` that multiplies bfloat16 natively, in words; "" where
    products would be emulated.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        found = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_name(device) if found else ""
    if kind != "cpu":
        return ""
    limit = (
        os.environ.get("ONEDNN_MAX_CPU_ISA")
        or os.environ.get("DNNL_MAX_CPU_ISA")
        or "DEFAULT"
    )
    if limit.upper() not in ("DEFAULT", "ALL") and not limit.upper().startswith(
        NATIVE_ISA
    ):
        return ""
    units = {
        "AMX": "_is_amx_tile_supported",
        "AVX512-BF16": "_is_avx512_bf16_supported",
    }
    for name, asks in units.items():
        if getattr(torch.cpu, asks, bool)():
            return name
    return ""


@lru_cache
def choose(precision: str = "auto", device: str | torch.device = "cpu") -> str:
    """What to compute in on `device`: "bf16", "tf32" or "fp32"; the choice is logged
    once.

    `precision`: "auto" takes bf16 where it is native, else fp32. bf16 that would be
    emulated is granted with a warning of one line. "tf32" (float32 products of 10-bit
    mantissas) is for CUDA devices from Ampere on. Raises ValueError for another name,
    or for "tf32" elsewhere.
    """
    kind = torch.device(device).type
    unit = native_bf16(device)
    if checked(precision) == "tf32" and not (kind == "cuda" and unit):
        raise ValueError(
            f"precision = 'tf32': a CUDA device from Ampere on has it, this is {kind}"
        )
    chosen = precision if precision != "auto" else "bf16" if unit else "fp32"
    if chosen == "bf16" and not unit:
        log.warning(
            "precision bf16: emulated on this %s, many times slower than fp32", kind
        )
    else:
        log.info(
            "precision %s: %s, %s",
            chosen,
            kind,
            f"bf16 native ({unit})" if unit else "no native bf16",
        )
    return chosen


@contextlib.contextmanager
def float32_products(precision: str, device: str | torch.device) -> Iterator[None]:
    """On a CUDA device, float32 products in TF32 for `precision` "tf32" and in full for
    the rest, which is not torch's default.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextlib.contextmanager
def computing(precision: str, device: str | torch.device) -> Iterator[None]:
    """Evaluate networks on `device` in `precision`, one that `choose` returned:
    autocast, or plain float32.
    """
    kind = torch.device(device).type
    with (
        float32_products(precision, device),
        torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield
