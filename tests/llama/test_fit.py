"""What counts as a start that fitting left as it was asked for: only what the child's own words prove."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.llama.fit import kept_all, left_alone, slot_context

if TYPE_CHECKING:
    from supervisor.config.values import Option

TRAINED = 2048

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "ctx-size": st.integers(-1, 1 << 20),
        "parallel": st.integers(-1, 64),
        "kv-unified": st.booleans(),
    },
)
TOKENS = st.integers(0, 1 << 20)


def payload(given: object = TRAINED, trained: object = TRAINED) -> dict[str, object]:
    """What a child says when it is ready, as far as it matters here."""
    return {"id": "m", "meta": {"n_ctx": given, "n_ctx_train": trained, "size": 337152}}


@pytest.mark.parametrize(
    ("options", "trained", "expected"),
    [
        ({}, TRAINED, TRAINED),
        ({}, None, None),
        ({"ctx-size": 0}, TRAINED, TRAINED),
        ({"ctx-size": 512}, TRAINED, 512),
        ({"ctx-size": 512}, None, 512),
        ({"c": 512}, TRAINED, 512),
        ({"ctx-size": 4096}, TRAINED, 4096),
        ({"ctx-size": 512, "c": 256}, TRAINED, 512),
        ({"ctx-size": 512, "parallel": 4}, TRAINED, 128),
        ({"ctx-size": 512, "np": 4}, TRAINED, 128),
        ({"parallel": 4}, TRAINED, 512),
        ({"parallel": 4}, None, None),
        ({"ctx-size": 512, "parallel": 4, "kv-unified": True}, TRAINED, 512),
        ({"ctx-size": 512, "parallel": 4, "kvu": True}, TRAINED, 512),
        ({"ctx-size": 512, "parallel": 4, "kv-unified": False}, TRAINED, 128),
        ({"ctx-size": 512, "parallel": -1}, TRAINED, 512),
        ({"ctx-size": 512, "parallel": 1}, TRAINED, 512),
        ({"ctx-size": -1}, TRAINED, None),
        ({"ctx-size": "8k"}, TRAINED, None),
        ({"ctx-size": (512, 1024)}, TRAINED, None),
    ],
)
def test_the_context_of_one_slot(options: dict[str, Option], trained: int | None, expected: int | None) -> None:
    """What is asked for, else what the model was trained for, shared among slots that do not share one cache."""
    assert slot_context(options, trained) == expected


@pytest.mark.parametrize(
    ("options", "said", "expected"),
    [
        ({"ctx-size": 512}, payload(512), True),
        ({"ctx-size": 500}, payload(512), True),
        ({"ctx-size": 512}, payload(256), False),
        ({"ctx-size": 0}, payload(), True),
        ({}, payload(), True),
        ({}, payload(given=1024), False),
        ({}, payload(trained=None), False),
        ({}, payload(trained="2048"), False),
        ({"ctx-size": 512}, payload(512, trained=None), True),
        ({"ctx-size": 4096}, payload(), False),
        ({"parallel": 4}, payload(512), True),
        ({"parallel": 4}, payload(256), False),
        ({"parallel": 4, "kv-unified": True}, payload(512), False),
        ({}, {}, False),
        ({}, {"meta": None}, False),
        ({}, {"meta": []}, False),
        ({}, {"meta": {}}, False),
        ({"ctx-size": 512}, payload(given=None), False),
        ({"ctx-size": 512}, payload(given=512.0), False),
    ],
)
def test_the_context_must_be_whole(options: dict[str, Option], said: dict[str, object], expected: bool) -> None:
    """A start on the processor alone is kept if its context is; what is not known counts as changed."""
    assert kept_all(options, said, was_left_alone=False, has_devices=False) is expected


@pytest.mark.parametrize(
    ("given", "was_left_alone", "expected"),
    [(TRAINED, True, True), (TRAINED, False, False), (1024, True, False), (1024, False, False)],
)
def test_devices_must_have_been_left_alone(given: int, was_left_alone: bool, expected: bool) -> None:
    """With devices, the child must have said that fitting changed nothing there; the context must be whole as well."""
    assert kept_all({}, payload(given), was_left_alone=was_left_alone, has_devices=True) is expected


@given(OPTIONS, st.tuples(TOKENS, TOKENS).map(sorted), st.integers(1, 1 << 20), st.booleans(), st.booleans())
def test_more_context_is_never_worse(
    options: dict[str, Option], contexts: list[int], trained: int, was_left_alone: bool, has_devices: bool
) -> None:
    """A start that was kept would have been kept with any larger context too."""
    less, more = (
        kept_all(options, payload(given, trained), was_left_alone=was_left_alone, has_devices=has_devices)
        for given in contexts
    )

    assert more or not less


@given(OPTIONS, TOKENS, st.integers(1, 1 << 20), st.booleans())
def test_devices_only_ask_for_more(options: dict[str, Option], given: int, trained: int, was_left_alone: bool) -> None:
    """What is kept on a device would be kept without one."""
    with_devices, without = (
        kept_all(options, payload(given, trained), was_left_alone=was_left_alone, has_devices=there)
        for there in (True, False)
    )

    assert without or not with_devices


@given(OPTIONS, st.integers(1, 1 << 20), st.integers(1, 64))
def test_more_slots_never_get_more(options: dict[str, Option], trained: int, slots: int) -> None:
    """Nobody is promised more context by asking for more slots."""
    one, two = (slot_context({**options, "parallel": count}, trained) for count in (slots, slots + 1))

    assert (one is None) == (two is None)
    assert one is None or two is None or two <= one


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["meta", "n_ctx", "x"]), inner),
        max_leaves=6,
    ).map(lambda meta: {"meta": meta})
)
def test_any_words_of_a_child_are_borne(said: dict[str, object]) -> None:
    """Whatever another version says of its model, the worst is that nothing is learned."""
    assert kept_all({"ctx-size": 512}, said, was_left_alone=True, has_devices=True) in {True, False}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "0.00.008.564 I common_params_fit_impl: will leave 24100 >= 1024 MiB of system memory, no changes needed",
            True,
        ),
        (
            "0.00.012.499 I common_params_fit_impl: will leave 24100 >= 1024 MiB of free device memory,"
            " no changes needed",
            True,
        ),
        (
            "common_params_fit_impl: targets for free memory can be met on all devices, no changes needed",
            True,
        ),
        ("llama_params_fit_impl: will leave 9 >= 8 MiB of free device memory, no changes needed", True),
        (
            "0.00.012.930 W common_fit_params: failed to fit params to free device memory:"
            " n_gpu_layers already set by user to 3, abort",
            True,
        ),
        ("0.00.008.565 I common_fit_params: successfully fit params to free device memory", False),
        (
            "0.00.010.167 I common_params_fit_impl: cannot meet free memory target of 24045 MiB,"
            " need to reduce device memory by 41 MiB",
            False,
        ),
        ("0.00.010.168 I common_params_fit_impl: context size set by user to 512 -> no change", False),
        ("0.00.009.462 I load_tensors: offloaded 19/19 layers to GPU", False),
        ("", False),
    ],
)
def test_left_alone(line: str, expected: bool) -> None:
    """Fitting says when it changes nothing, or gives up before it does; whatever else is said is no proof."""
    assert left_alone(line) is expected
