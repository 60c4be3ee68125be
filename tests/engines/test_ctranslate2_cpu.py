"""CTranslate2's settings by CPU; test_export_ctranslate2.py tests the results on this one."""

import pytest

from fairseq_taskmoe.engines.ctranslate2_cpu import (
    AVX512,
    cpu_flags,
    is_inexact,
    settings_for,
)

LARGE = {"CT2_FORCE_CPU_ISA": "AVX512"}
EXACT = {"CT2_USE_MKL": "1"}


@pytest.mark.parametrize("flags, settings", [
    ({"avx2", *AVX512, "avx512_vnni"}, LARGE),  # Zen 4
    ({"avx2", *AVX512}, {**LARGE, **EXACT}),  # Skylake
    ({"avx2"}, EXACT),  # Zen 3, or a virtual machine that hides AVX-512
    ({"avx2", "avx_vnni"}, {}),  # Alder Lake
    ({"avx2", "avx512f"}, EXACT),
    (None, {}),  # not Linux, or another architecture
])  # fmt: skip
def test_settings_follow_from_the_flags(flags, settings):
    assert settings_for(flags) == settings


def test_flags_of_this_machine_are_printable():
    flags = cpu_flags()
    assert flags is None or (flags and all(flag.isprintable() and flag for flag in flags))


def test_8_bit_products_are_exact_unless_the_library_was_loaded_without_the_setting():
    overflows = "CT2_USE_MKL" in settings_for(cpu_flags())
    assert is_inexact("int8_float32", True, {}) is overflows
    assert not is_inexact("int8", False, {}) and not is_inexact("float32", True, {})
    assert not is_inexact("int8", True, {"CT2_USE_MKL": "1"})
