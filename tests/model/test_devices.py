"""bfloat16 only where the processor computes in it: emulated, it takes five times as long as float32."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from fewscope.model import devices
from fewscope.model.devices import computes_bfloat16, native_precisions
from fewscope.model.networks.compact import CompactNet
from fewscope.model.segmenter import load_segmenter

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="the flags of an x86 processor under Linux"
)
def test_a_processor_computes_in_bfloat16_if_its_flags_say_so() -> None:
    flags = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")).split()
    assert computes_bfloat16(CPU) == bool({"avx512_bf16", "amx_bf16"} & set(flags))


@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_either_kind_of_instruction_suffices(
    avx512: bool, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert native_precisions(CPU) == (("float32", "bfloat16") if avx512 or amx else ("float32",))


@pytest.mark.usefixtures("quick_texture")
def test_a_processor_without_it_never_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by default, not with features that were encoded for it, not if asked."""
    computed: list[torch.dtype] = []
    plain = CompactNet.predict_encoded

    def watched(self: CompactNet, queries, *args, **options):  # type: ignore[no-untyped-def]
        computed.extend(maps.dtype for maps in queries[1].values())
        return plain(self, queries, *args, **options)

    monkeypatch.setattr(devices, "computes_bfloat16", lambda _: False)
    monkeypatch.setattr(CompactNet, "predict_encoded", watched)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 224, 224, 3), np.uint8)
    labels = rng.integers(0, 2, (2, 224, 224), np.uint8)
    old = load_segmenter(device="cpu", batch_size=1)
    assert old.precision == "float32"
    features = old.encode(images, labels)
    assert features.precision == "float32"
    expected = old.predict(images[:1], features)
    asked = load_segmenter(device="cpu", precision="bfloat16", batch_size=1)
    for model, of in ((old, dataclasses.replace(features, precision="bfloat16")), (asked, features)):
        assert np.array_equal(model.predict(images[:1], of), expected)
    assert set(computed) == {torch.float32}

    monkeypatch.setattr(devices, "computes_bfloat16", lambda _: True)
    computed.clear()
    new = load_segmenter(device="cpu", batch_size=1)
    new.predict(images[:1], dataclasses.replace(features, precision="bfloat16"))
    assert set(computed) == {torch.bfloat16}, "the same call, where it is native"
