"""The arithmetic of memory: vectors over devices, and files that several runs map."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.fleet.memory import HOST, Device, Footprint, Part, Source, budgets, peak, sum_of

SIZES = st.integers(0, 1 << 40)
FOOTPRINTS = st.builds(
    Footprint,
    amounts=st.dictionaries(st.sampled_from((HOST, "CUDA0", "CUDA1")), SIZES),
    shared=st.dictionaries(st.sampled_from(("/a.gguf", "/b.gguf")), SIZES),
)


def test_parts_add_up_by_device_and_by_file() -> None:
    """A footprint is the sum of its parts: those of the run alone per device, mapped ones per file."""
    parts = [Part("KV cache", "CUDA0", 5), Part("compute", "CUDA0", 2), Part("compute", HOST, 1)]
    parts.append(Part("weights", HOST, 10, "/a.gguf"))

    footprint = Footprint.of(parts, Source.MEASURED)

    assert footprint.amounts == {"CUDA0": 7, HOST: 1}
    assert footprint.shared == {"/a.gguf": 10}
    assert footprint.total() == {"CUDA0": 7, HOST: 11}
    assert footprint.is_measured


def test_a_file_that_two_runs_map_counts_once() -> None:
    """Two runs of the same file take its bytes once, as many as the larger mapping has."""
    one, other = Footprint({HOST: 1}, {"/a.gguf": 10}), Footprint({HOST: 2}, {"/a.gguf": 12})

    assert sum_of([one, other]) == {HOST: 15}
    assert other.beside([one]) == {HOST: 4}
    assert one.beside([other]) == {HOST: 1}


def test_nothing_takes_nothing() -> None:
    """No run takes no memory, and a model without memory on the host says nothing of the host."""
    assert sum_of([]) == {}
    assert Footprint({"CUDA0": 3}).total() == {"CUDA0": 3}


def test_the_peak_keeps_the_larger_of_both_on_every_device() -> None:
    """What was larger before stays."""
    found = peak(Footprint({HOST: 5, "CUDA0": 1}, source=Source.MEASURED), Footprint({"CUDA0": 2, "CUDA1": 3}))

    assert found.total() == {HOST: 5, "CUDA0": 2, "CUDA1": 3}
    assert found.is_measured


def test_a_device_without_memory_of_its_own_counts_as_the_host() -> None:
    """Unified memory is there once; a GPU is known by its UUID, then its bus address, then its name."""
    assert Device("CUDA0", "NVIDIA GB10", 128, unified=True).memory == HOST
    assert Device("CUDA0", "NVIDIA H200", 141).memory == "CUDA0"
    assert Device("CUDA0", "x", 1, uuid="GPU-1", pci="0000:01:00.0").identity == "GPU-1"
    assert Device("CUDA0", "x", 1, pci="0000:01:00.0").identity == "0000:01:00.0"
    assert Device("CUDA0", "x", 1).identity == "CUDA0"


def test_a_budget_is_what_was_asked_for_else_all_but_the_reserve() -> None:
    """No budget is larger than its device, none is negative, and unified memory has only the host's."""
    devices = [
        Device(HOST, "memory", 100),
        Device("CUDA0", "a", 50),
        Device("CUDA1", "b", 5),
        Device("MTL0", "c", 100, unified=True),
    ]

    assert budgets(devices, reserve=10, asked={"CUDA0": 20}) == {HOST: 90, "CUDA0": 20, "CUDA1": 0}
    assert budgets(devices, asked={"CUDA0": 60}) == {HOST: 100, "CUDA0": 50, "CUDA1": 5}


@given(st.lists(FOOTPRINTS, max_size=4), FOOTPRINTS)
def test_one_more_adds_what_it_takes_beside_the_others(others: list[Footprint], one: Footprint) -> None:
    """The sum with one more is the sum without plus what that one takes beside them, in any order."""
    without, added = sum_of(others), one.beside(others)
    both = {device: without.get(device, 0) + added.get(device, 0) for device in {*without, *added}}

    found = sum_of([one, *others])

    assert {device: amount for device, amount in found.items() if amount} == {
        device: amount for device, amount in both.items() if amount
    }
    assert all(
        amount <= sum(each.total().get(device, 0) for each in (one, *others)) for device, amount in found.items()
    )
