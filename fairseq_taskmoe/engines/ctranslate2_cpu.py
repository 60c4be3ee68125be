"""Import of CTranslate2 with settings for this machine's CPU, which it reads when it is loaded.

All modules of this package import it from here.
"""

import os
import sys
from typing import Dict, Optional, Set

ISA, MKL = "CT2_FORCE_CPU_ISA", "CT2_USE_MKL"
AVX512 = {"avx512f", "avx512cd", "avx512vl", "avx512bw", "avx512dq"}
VNNI = {"avx512_vnni", "avx_vnni"}


def settings_for(flags: Optional[Set[str]]) -> Dict[str, str]:
    """Return settings for a CPU with these flags of /proc/cpuinfo; None: there is no such file.

    By default CTranslate2 uses AVX-512 only on Intel's processors; on a Zen 4 it is 4 % faster with
    it. On processors of others it multiplies 8-bit integers with oneDNN, which without VNNI adds
    pairs of products in 16 bits: these overflow without a warning, and log-probabilities are wrong
    by up to 17 %. MKL computes them correctly.
    """
    if flags is None:
        return {}
    settings = {ISA: "AVX512"} if flags >= AVX512 else {}
    if not flags & VNNI:
        settings[MKL] = "1"
    return settings


def cpu_flags() -> Optional[Set[str]]:
    """Return the flags of the first core; None if this is not Linux on x86-64."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), None)
    except OSError:  # another system
        return None
    return None if flags is None else set(flags.partition(":")[2].split())


def is_inexact(quantization: str, loaded_before: bool, environment: Dict[str, str]) -> bool:
    """Return whether 8-bit products may overflow: CTranslate2 was loaded without the setting."""
    is_set = MKL in environment or not loaded_before
    return quantization.startswith("int8") and not is_set and MKL in settings_for(cpu_flags())


LOADED_BEFORE = "ctranslate2" in sys.modules
ORIGINAL_ENVIRONMENT = dict(os.environ)
if not LOADED_BEFORE:
    for _name, _value in settings_for(cpu_flags()).items():
        os.environ.setdefault(_name, _value)

import ctranslate2  # noqa: E402
from ctranslate2 import specs  # noqa: E402

__all__ = ["ctranslate2", "specs"]
