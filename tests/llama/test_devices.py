"""Devices as llama-server tells of them: its list, its log while loading, and which GPU of the machine each one is."""

from __future__ import annotations

import pytest

from supervisor.llama.devices import Gpu, Hearsay, Listed, full_address, identified, listed

MIB = 2**20
CARD = Gpu("NVIDIA GeForce RTX 3090", 24576 * MIB, "GPU-aaaa", "0000:01:00.0")
TWIN = Gpu("NVIDIA GeForce RTX 3090", 24576 * MIB, "GPU-bbbb", "0000:02:00.0")
SMALL = Gpu("NVIDIA GeForce GTX 1060", 6144 * MIB, "GPU-cccc", "0000:03:00.0")


def cuda(place: int, gpu: Gpu) -> Listed:
    return Listed(f"CUDA{place}", gpu.name, gpu.total, None)


def test_a_list_of_devices() -> None:
    """Name, description and sizes, among whatever else the libraries print."""
    lines = [
        "ggml_vulkan: Found 1 Vulkan devices:",
        "ggml_vulkan: 0 = AMD Radeon 780M (RADV PHOENIX) (radv) | uma: 1 | fp16: 1 | bf16: 0 |",
        "Available devices:",
        "  CUDA0: NVIDIA GeForce RTX 3090 (24135 MiB, 23875 MiB free)",
        "  Vulkan0: AMD Radeon 780M (RADV PHOENIX) (48000 MiB, 47000 MiB free)",
        "  RPC0: 192.168.1.5:50052",
        "  MTL0: Apple M3 Max (98304 MiB, 98303 MiB free)",
    ]

    assert listed(lines) == (
        Listed("CUDA0", "NVIDIA GeForce RTX 3090", 24135 * MIB, 23875 * MIB),
        Listed("Vulkan0", "AMD Radeon 780M (RADV PHOENIX)", 48000 * MIB, 47000 * MIB, is_unified=True),
        Listed("RPC0", "192.168.1.5:50052", None, None),
        Listed("MTL0", "Apple M3 Max", 98304 * MIB, 98303 * MIB, is_unified=True),
    )
    assert listed(["Available devices:", "  (none)"]) == ()


def test_what_a_child_says_of_its_buffers() -> None:
    """Buffers add up by device and kind; those in the host's memory are left to the kernel's own count."""
    heard = Hearsay()
    for line in (
        "0.1 I llama_model_load: using device CUDA0 (NVIDIA H200) (0000:1a:00.0) - 143000 MiB free",
        "0.2 I load_tensors:        CUDA0 model buffer size =  1000.50 MiB",
        "0.2 I load_tensors:   CPU_Mapped model buffer size =   235.16 MiB",
        "0.3 I llama_kv_cache:      CUDA0 KV buffer size =    24.00 MiB",
        "0.3 I llama_kv_cache:      CUDA0 KV buffer size =    37.50 MiB",
        "0.4 I sched_reserve:      CUDA0 compute buffer size =    28.00 MiB",
        "0.4 I sched_reserve:  CUDA_Host compute buffer size =     5.00 MiB",
        "0.5 I llama_context:  CUDA_Host  output buffer size =     4.00 MiB",
        "0.6 I srv  something about the buffer size that is no number",
    ):
        heard.listen(line)

    assert heard.pci == {"CUDA0": "0000:1a:00.0"}
    assert list(heard.on_devices()) == [
        ("weights", "CUDA0", int(1000.5 * MIB)),
        ("KV cache", "CUDA0", int(61.5 * MIB)),
        ("compute buffer", "CUDA0", 28 * MIB),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "common_memory_breakdown_print: |   - CUDA1 (RTX 3090)   "
        "| 24126 = 23403 + (25610 = 15621 +    9152 +     836) + -24888 |",
        '{"type":"fit_memory_breakdown","data":{"unit":"MiB","rows":[{"kind":"device","name":"CUDA1","self":25610},'
        '{"kind":"host","name":"Host","self":280}]}}',
    ],
)
def test_a_breakdown_counts_where_no_buffer_was_told(line: str) -> None:
    """Fitting's reckoning stands in for a device of which the child says nothing later."""
    heard = Hearsay()

    heard.listen(line)

    assert list(heard.on_devices()) == [("fitting's reckoning", "CUDA1", 25610 * MIB)]


@pytest.mark.parametrize(
    "line", ['{"type":"fit_memory_breakdown"}', "{ breakdown", '{"data":{"rows":[{"breakdown":1}]}}']
)
def test_a_broken_breakdown_is_no_breakdown(line: str) -> None:
    """A line that only looks like one changes nothing and breaks nothing."""
    heard = Hearsay()

    heard.listen(line)

    assert heard.breakdown == {}


def test_addresses_are_spelled_alike() -> None:
    """NVML, sysfs and llama.cpp write the same bus address in different ways."""
    assert full_address("00000000:1A:00.0") == full_address("0000:1a:00.0") == full_address("1A:00.0") == "0000:1a:00.0"


def test_names_and_sizes_tell_which_gpu_it_is() -> None:
    """CUDA lists the fastest first, the bus the first first."""
    found = identified([cuda(0, CARD), cuda(1, SMALL)], [SMALL, CARD], {})

    assert found == {"CUDA0": CARD, "CUDA1": SMALL}


def test_twins_are_told_apart_by_their_order() -> None:
    """Of cards that are alike, CUDA keeps the order of the bus."""
    assert identified([cuda(0, CARD), cuda(1, CARD)], [CARD, TWIN], {}) == {"CUDA0": CARD, "CUDA1": TWIN}


@pytest.mark.parametrize("asked", ["1", "GPU-bbbb", "GPU-bb"])
def test_hidden_gpus_do_not_count(asked: str) -> None:
    """With one of two shown, the child's first device is that one."""
    assert identified([cuda(0, CARD)], [CARD, TWIN], {"CUDA_VISIBLE_DEVICES": asked}) == {"CUDA0": TWIN}


def test_an_order_that_is_asked_for() -> None:
    """CUDA_VISIBLE_DEVICES may turn the order round."""
    found = identified([cuda(0, CARD), cuda(1, CARD)], [CARD, TWIN], {"CUDA_VISIBLE_DEVICES": "1,0"})

    assert found == {"CUDA0": TWIN, "CUDA1": CARD}


def test_positions_among_unlike_gpus_say_nothing() -> None:
    """Which is the second of unlike GPUs is not ours to know, but its name is; unless the bus order is asked for."""
    env = {"CUDA_VISIBLE_DEVICES": "1"}

    assert identified([cuda(0, SMALL)], [CARD, SMALL], env) == {"CUDA0": SMALL}
    assert identified([cuda(0, CARD)], [SMALL, CARD], {**env, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) == {"CUDA0": CARD}


def test_one_of_twins_by_a_position_of_unknown_order_stays_unknown() -> None:
    """No guess which of two like cards is meant where a third, unlike one may stand before them."""
    assert identified([cuda(0, CARD)], [CARD, TWIN, SMALL], {"CUDA_VISIBLE_DEVICES": "1"}) == {}


def test_a_device_that_nobody_else_knows_has_no_identity() -> None:
    """No guess where the machine does not tell."""
    assert identified([Listed("Vulkan0", "llvmpipe", 8 * MIB, None)], [CARD], {}) == {}
    assert identified([cuda(0, CARD)], [], {}) == {}
