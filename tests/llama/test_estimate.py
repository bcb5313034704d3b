"""What a start will take, against what both builds of llama-server allocate (spec: llama-server.md, section 5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.llama.estimate import Share, estimate
from supervisor.llama.gguf import Header
from supervisor.llama.gguf_weights import Weights, weights_of
from supervisor.llama.kv_cache import Context, cache_bytes
from supervisor.llama.offloading import HOST, Plan

MIB = 2**20
GIB = 2**30


def header(architecture: str = "llama", *, blocks: int = 4, **numbers: int | tuple[int, ...]) -> Header:
    """A model of 100 MiB a block, with 20 MiB of embeddings and 30 MiB of output."""
    return Header(
        version=3,
        architecture=architecture,
        name="",
        type="model",
        parameters=0,
        quantisation="Q8_0",
        context_length=4096,
        embedding_length=1024,
        block_count=blocks,
        vocabulary_size=1000,
        sampling={},
        split_count=1,
        split_no=0,
        projection_length=None,
        modalities=(),
        expected_bytes=0,
        file_bytes=0,
        numbers={
            "attention.head_count": 8,
            "attention.head_count_kv": 2,
            "feed_forward_length": 4096,
            **{name.replace("__", "."): value for name, value in numbers.items()},
        },
        weights=Weights(
            blocks=dict.fromkeys(range(blocks), 100 * MIB),
            experts=dict.fromkeys(range(blocks), 80 * MIB),
            embeddings=20 * MIB,
            output=30 * MIB,
            has_output=True,
        ),
    )


GEMMA = replace(
    header("gemma3", blocks=18),
    embedding_length=640,
    numbers={
        "attention.head_count": 4,
        "attention.head_count_kv": 1,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "attention.sliding_window": 512,
        "feed_forward_length": 2048,
    },
)
"""The demo model."""


def taken(label: str, device: str, plan: Plan) -> int:
    """The sum of the parts with this label on a device."""
    return sum(part.bytes for part in estimate(plan) if part.label.startswith(label) and part.device == device)


def plan(given: Header | None = None, *, devices: dict[str, int] | None = None, **options: object) -> Plan:
    options = {name.replace("_", "-"): value for name, value in options.items()}
    return Plan(header=given or header(), file="/m.gguf", options=options, devices=devices or {})  # type: ignore[arg-type]


# The cache, as llama-server said it allocates it.


@pytest.mark.parametrize(
    ("context", "mebibytes"),
    [
        (Context(512, slots=4), 9.0),
        (Context(2048, slots=4), 36.0),
        (Context(2048, slots=1), 21.0),
        (Context(2048, slots=2, is_unified=False), 36.0),
        (Context(2048, slots=4, key_type="q8_0", value_type="q8_0"), 19.125),
        (Context(32768, slots=4), 133.5),
        (Context(131072, slots=4), 421.5),
    ],
)
def test_the_cache_of_a_model_with_windows(context: Context, mebibytes: float) -> None:
    """To the byte what both builds report for the demo model, by context, slots and type."""
    assert sum(cache_bytes(GEMMA, context)) / MIB == mebibytes


def test_a_whole_cache_where_windows_are_not_wanted() -> None:
    """`--swa-full` gives every layer the whole context."""
    assert set(cache_bytes(GEMMA, Context(32768, slots=4, windows_are_whole=True))) == {32 * MIB}


def test_layers_with_numbers_of_their_own() -> None:
    """Heads may differ from layer to layer, and a list says which layers have windows."""
    given = header(
        attention__head_count_kv=(2, 4, 2, 4),
        attention__sliding_window=256,
        attention__sliding_window_pattern=(1, 1, 0, 0),
    )

    assert cache_bytes(given, Context(4096, slots=1)) == [768 * 1024, 1536 * 1024, 4 * MIB, 8 * MIB]


def test_layers_that_keep_a_state() -> None:
    """Recurrent layers take the same whatever the context, once for each slot."""
    given = header(
        "qwen3next",
        full_attention_interval=4,
        ssm__inner_size=4096,
        ssm__state_size=128,
        ssm__conv_kernel=4,
        ssm__group_count=16,
    )

    one, other = cache_bytes(given, Context(4096, slots=1)), cache_bytes(given, Context(8192, slots=2))

    assert one[:3] == [(4096 * 128 + 3 * (4096 + 2 * 16 * 128)) * 4] * 3
    assert other[:3] == [2 * size for size in one[:3]]
    assert other[3] == 2 * one[3]


def test_values_that_are_part_of_the_keys_and_models_without_a_cache() -> None:
    """Latent attention keeps no values; encoders keep nothing."""
    latent = header("deepseek2", attention__key_length=576, attention__key_length_mla=192, attention__head_count_kv=1)

    assert cache_bytes(latent, Context(1024))[0] == 1024 * 576 * 2
    assert sum(cache_bytes(header("nomic-bert"), Context(1024))) == 0


# Where it goes.


def test_without_devices_everything_is_on_the_host() -> None:
    """Mapped weights are named after their file, so that runs of the same file count it once."""
    parts = estimate(plan())

    assert {part.device for part in parts} == {HOST}
    assert Share("weights", HOST, 450 * MIB, "/m.gguf") in parts


@pytest.mark.parametrize("options", [{"load_mode": "none"}, {"no_mmap": True}, {"mmap": False}, {"load_mode": "dio"}])
def test_weights_that_are_read_are_the_runs_own(options: dict[str, object]) -> None:
    """Without mapping there is nothing to share, nor are weights there twice."""
    given = replace(header(), weights=replace(header().weights, repacked={0: 50 * MIB}))

    parts = estimate(plan(given, **options))

    assert [part for part in parts if part.label.startswith("weights")] == [Share("weights", HOST, 450 * MIB)]


def test_weights_in_another_order_come_on_top_of_mapped_ones() -> None:
    """What the processor copies is there twice; `--no-repack` saves that."""
    given = replace(header(), weights=replace(header().weights, repacked={0: 50 * MIB}))

    assert taken("weights in another order", HOST, plan(given)) == 50 * MIB
    assert taken("weights in another order", HOST, plan(given, no_repack=True)) == 0
    assert taken("weights in another order", HOST, plan(given, devices={"CUDA0": 8 * GIB})) == 0


def test_a_device_gets_all_but_the_embeddings() -> None:
    """By default all layers and the output go there, with the cache; the projector too."""
    given = plan(devices={"CUDA0": 8 * GIB})
    seeing = replace(given, projector=replace(header(), weights=Weights(output=7 * MIB)))

    assert taken("weights", "CUDA0", given) == 430 * MIB
    assert taken("weights", HOST, given) == 20 * MIB
    assert taken("KV cache", "CUDA0", given) == 4 * 4096 * 2 * 128 * 2 * 2
    assert taken("KV cache", HOST, given) == 0
    assert taken("projector", "CUDA0", seeing) == 7 * MIB


def test_output_that_is_the_embeddings_is_there_twice() -> None:
    """A model without an output layer of its own takes the embeddings to the device as well."""
    tied = replace(header(), weights=replace(header().weights, has_output=False, output=0))

    assert taken("weights", "CUDA0", plan(tied, devices={"CUDA0": 8 * GIB})) == 420 * MIB


@pytest.mark.parametrize(
    ("options", "on_device"),
    [
        ({"n_gpu_layers": 0}, 0),
        ({"ngl": 1}, 30),
        ({"ngl": 3}, 230),
        ({"n_gpu_layers": 99}, 430),
        ({"ngl": "all"}, 430),
        ({"device": "none"}, 0),
        ({"cpu_moe": True}, 110),
        ({"n_cpu_moe": 2}, 270),
        ({"ncmoe": 2, "ngl": 3}, 230),
    ],
)
def test_layers_go_where_the_options_say(options: dict[str, object], on_device: int) -> None:
    """The last layers go first, the output before all; experts may stay behind."""
    given = plan(devices={"CUDA0": 8 * GIB}, **options)

    assert taken("weights", "CUDA0", given) == on_device * MIB
    assert taken("weights", HOST, given) == (450 - on_device) * MIB


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, [200, 230]),
        ({"tensor_split": "3,1"}, [400, 30]),
        ({"ts": (1, 3)}, [200, 230]),
        ({"split_mode": "none"}, [430, 0]),
        ({"sm": "none", "mg": 1}, [0, 430]),
        ({"device": "CUDA1"}, [0, 430]),
        ({"dev": "CUDA1,CUDA0"}, [130, 300]),
    ],
)
def test_layers_are_split_over_devices(options: dict[str, object], shares: list[int]) -> None:
    """By size, or as the options say."""
    devices = {"CUDA0": 8 * GIB, "CUDA1": 12 * GIB} if not options else {"CUDA0": 8 * GIB, "CUDA1": 8 * GIB}
    given = plan(devices=devices, **options)

    assert [taken("weights", name, given) // MIB for name in devices] == shares


def test_a_cache_may_stay_behind() -> None:
    """`--no-kv-offload` keeps it with the processor."""
    given = plan(devices={"CUDA0": 8 * GIB}, no_kv_offload=True)

    assert taken("KV cache", "CUDA0", given) == 0
    assert taken("KV cache", HOST, given) > 0


def test_a_draft_model_has_options_of_its_own() -> None:
    """It comes on top, with its own layers and cache types and the context of the model."""
    given = replace(plan(devices={"CUDA0": 8 * GIB}, spec_draft_ngl=0), draft=header(), draft_file="/d.gguf")

    assert taken("draft: weights", "CUDA0", given) == 0
    assert taken("draft: weights", HOST, given) == 450 * MIB
    assert taken("draft: KV cache", HOST, given) == taken("KV cache", "CUDA0", given)


# What fitting makes of it.


def test_fitting_shortens_the_context_then_moves_layers() -> None:
    """What does not fit is not what will be taken: unless the owner has said how much it is to be."""
    long = replace(header(), context_length=1 << 20)
    room = {"CUDA0": GIB + 800 * MIB}

    fitted = estimate(plan(long, devices=room))
    told = estimate(plan(long, devices=room, ctx_size=1 << 20, n_gpu_layers=99))
    unfitted = estimate(plan(long, devices=room, fit="off"))

    assert (
        700 * MIB < sum(part.bytes for part in fitted if part.device == "CUDA0" and part.label != "driver") <= 800 * MIB
    )
    assert taken("weights", "CUDA0", plan(long, devices=room)) == 430 * MIB
    assert [part for part in told if "KV" in part.label] == [part for part in unfitted if "KV" in part.label]


def test_a_model_larger_than_its_device_is_split_with_the_host() -> None:
    """Layers that find no room stay with the processor."""
    given = plan(devices={"CUDA0": GIB + 300 * MIB})

    assert taken("weights", "CUDA0", given) == 230 * MIB
    assert taken("weights", HOST, given) == 220 * MIB


def test_a_file_of_unknown_layers_is_taken_as_a_whole() -> None:
    """Where the header does not tell its layers, the file's size is all there is."""
    given = replace(header(), block_count=None, file_bytes=5 * MIB)

    assert estimate(plan(given))[0] == Share("weights", HOST, 5 * MIB)


def test_tensors_are_told_apart_by_their_names() -> None:
    """Blocks, their experts, what the processor copies, embeddings and the rest; of split models the sum."""
    one = weights_of(
        [
            ("token_embd.weight", "Q8_0", 5),
            ("blk.0.attn_q.weight", "Q4_K", 7),
            ("blk.0.ffn_up_exps.weight", "Q6_K", 11),
            ("blk.12.ffn_down.weight", "Q8_0", 13),
            ("output_norm.weight", "F32", 1),
        ]
    )
    other = weights_of([("output.weight", "Q6_K", 17), ("blk.0.attn_k.weight", "Q4_0", 19)])

    assert one == Weights({0: 18, 12: 13}, {0: 11}, {0: 7}, embeddings=5, output=1)
    assert one.plus(other) == Weights({0: 37, 12: 13}, {0: 11}, {0: 26}, 5, 18, has_output=True)
    assert one.plus(other).total == 73
