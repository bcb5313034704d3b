"""What a request's model name, or the beginning of a path, means."""

from __future__ import annotations

import difflib
from dataclasses import replace

import pytest

from supervisor.config.values import Config, Filters, Model, Peer, Profile, Selector, Strategy, Variant
from supervisor.errors import ModelNotFound, NoModelNamed, ProfileNotFound
from supervisor.fleet.names import COMPARED_NAMES, MOST_SEGMENTS, Choice, Names, Target
from tests.fleet.scene import config_of

COLD = Filters(defaults={"temperature": 0.0})
STRIPPED = Filters(strip=("user",))

QWEN = Model("qwen", aliases=("gpt-4o", "best"), filters=STRIPPED, variants={"qwen:exact": Variant(COLD)})


def test_id_names_its_model() -> None:
    """A model is called by its id, and its requests are filtered as its table says."""
    target = Names(config_of(QWEN, "gemma")).resolve("qwen")

    assert (target.name, target.model, target.filters) == ("qwen", "qwen", STRIPPED)


@pytest.mark.parametrize("alias", ["gpt-4o", "best"])
def test_alias_is_the_model_by_another_name(alias: str) -> None:
    """An alias changes nothing but the name, which stays what the client said."""
    target = Names(config_of(QWEN, "gemma")).resolve(alias)

    assert (target.name, target.model, target.filters) == (alias, "qwen", STRIPPED)


def test_a_name_with_settings_of_its_own_has_other_parameters() -> None:
    """Other names of the model keep the model's filters."""
    names = Names(config_of(Model("qwen", aliases=("fast",), filters=STRIPPED, filters_by_name={"fast": COLD})))

    assert names.resolve("fast").filters == COLD
    assert names.resolve("qwen").filters == STRIPPED


def test_variant_is_the_same_process_with_other_parameters() -> None:
    """A variant names the model it belongs to, with its own filters."""
    target = Names(config_of(QWEN, "gemma")).resolve("qwen:exact")

    assert (target.name, target.model, target.filters) == ("qwen:exact", "qwen", COLD)


@pytest.mark.parametrize("nothing", [None, ""])
@pytest.mark.parametrize(("default", "model"), [("gemma", "gemma"), ("best", "qwen"), ("qwen:exact", "qwen")])
def test_no_name_means_the_default_model(nothing: str | None, default: str, model: str) -> None:
    """The default may be any name that a client could have sent."""
    target = Names(config_of(QWEN, "gemma", default_model=default)).resolve(nothing)

    assert (target.name, target.model) == (default, model)


def test_no_name_means_the_only_model() -> None:
    """Where there is no choice, none has to be made."""
    assert Names(config_of("gemma")).resolve(None).model == "gemma"


def test_no_name_and_no_default_is_refused() -> None:
    """A request that leaves the choice open is told how to make it."""
    with pytest.raises(NoModelNamed, match="no model id could be identified: the request names no `model`") as refusal:
        Names(config_of("qwen", "gemma")).resolve(None)

    assert refusal.value.status == 404
    assert "default_model" in refusal.value.hint


def test_name_is_not_replaced_by_the_default() -> None:
    """A wrong name is an error, even where there is a default: no answer is better than another model's."""
    with pytest.raises(ModelNotFound, match="no model is called `gpt-5`") as refusal:
        Names(config_of("gemma")).resolve("gpt-5")

    assert refusal.value.status == 404


@pytest.mark.parametrize(("typo", "meant"), [("qwne", "qwen"), ("gpt-4", "gpt-4o"), ("qwen:exakt", "qwen:exact")])
def test_unknown_name_gets_the_nearest(typo: str, meant: str) -> None:
    """Ids, aliases and variants are all worth a guess."""
    with pytest.raises(ModelNotFound) as refusal:
        Names(config_of(QWEN, "gemma")).resolve(typo)

    assert refusal.value.hint == f"did you mean `{meant}`?"


def test_strange_name_gets_the_list() -> None:
    """Where no guess is near, the hint says where the names are; a very long name is not repeated in full."""
    with pytest.raises(ModelNotFound) as refusal:
        Names(config_of(QWEN)).resolve("ö" * 100_000)

    assert refusal.value.hint == "`GET /v1/models` lists them"
    assert len(str(refusal.value)) < 300


def test_names_are_matched_exactly() -> None:
    """Names are not folded: what differs in case is another name, and a guess."""
    with pytest.raises(ModelNotFound, match="`Gemma`") as refusal:
        Names(config_of("gemma")).resolve("Gemma")

    assert refusal.value.hint == "did you mean `gemma`?"


@pytest.mark.parametrize(
    ("path", "model", "count"),
    [
        ("qwen/v1/chat/completions", "qwen", 1),
        ("author/v1/chat", "author", 1),
        ("author/gemma/v1", "author", 1),
        ("author/qwen/v1/chat", "author/qwen", 2),
        ("author/qwen", "author/qwen", 2),
        ("author/qwen/", "author/qwen", 2),
        ("author/qwen/large/v1/chat", "author/qwen/large", 3),
    ],
)
def test_longest_name_of_a_path_wins(path: str, model: str, count: int) -> None:
    """Slashes are part of names; what is not name is left to the child."""
    names = Names(config_of("author", "author/qwen", "author/qwen/large", "qwen"))

    target, segments = names.split(path.split("/"))

    assert (target.model, segments) == (model, count)


def test_slash_within_a_segment_is_part_of_the_name() -> None:
    """A client that sends the name as one segment (`author%2Fqwen`) means the same model."""
    target, segments = Names(config_of("author/qwen")).split(["author/qwen", "v1", "chat"])

    assert (target.model, segments) == ("author/qwen", 1)


def test_path_may_begin_with_an_alias_or_variant() -> None:
    """A path names models as requests do."""
    names = Names(config_of(QWEN, "gemma"))

    assert names.split(["best", "props"])[0].model == "qwen"
    assert names.split(["qwen:exact", "props"])[0].filters == COLD


@pytest.mark.parametrize("segments", [[], [""], ["v1", "chat"], ["author", "v1"], ["author", "qwe"], ["", "author"]])
def test_path_without_a_model_is_refused(segments: list[str]) -> None:
    """Neither the only model nor a part of a name will do."""
    with pytest.raises(ModelNotFound):
        Names(config_of("author/qwen")).split(segments)


def test_path_without_a_model_gets_the_nearest() -> None:
    """A typing error in the first segment is answered like one in a request."""
    with pytest.raises(ModelNotFound, match="no model is called `qwne`") as refusal:
        Names(config_of(QWEN)).split(["qwne", "v1", "chat"])

    assert refusal.value.hint == "did you mean `qwen`?"


def test_endless_path_is_not_tried_to_its_end() -> None:
    """The work for a stranger's path does not grow with its square."""
    deep = "/".join("a" * (MOST_SEGMENTS + 1))
    names = Names(config_of("/".join("a" * MOST_SEGMENTS), deep))

    assert names.split(deep.split("/"))[1] == MOST_SEGMENTS


def test_many_names_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten thousand names a wrong one costs nothing: it gets the list instead of a guess."""
    compared: list[str] = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda name, *_, **__: compared.append(name) or [])
    many = Names(config_of(*(f"model-{number}" for number in range(10_000))))
    few = Names(config_of(*(f"model-{number}" for number in range(COMPARED_NAMES))))

    with pytest.raises(ModelNotFound) as refusal:
        many.resolve("model-x")
    assert refusal.value.hint == "`GET /v1/models` lists them"
    assert compared == []
    with pytest.raises(ModelNotFound):
        few.resolve("model-y")
    assert compared == ["model-y"]


def test_empty_segments_belong_to_no_name() -> None:
    """Doubled slashes in a path are nothing, as llama-swap has it."""
    target, segments = Names(config_of("author/qwen")).split(["", "author", "", "qwen", "", "v1"])

    assert (target.model, segments) == ("author/qwen", 4)


# Names that lead elsewhere.


def world() -> Config:
    """Two models, two peers with one model in common, a selector and two profiles."""
    config = config_of(QWEN, Model("gemma", use_model_name="google/gemma"))
    peers = {
        "left": Peer("http://l", ("both", "mine", "qwen"), filters=STRIPPED, filters_by_name={"mine": COLD}),
        "right": Peer("http://r", ("both",)),
    }
    selectors = {"pool": Selector(Strategy.SPILLOVER, ("best", "gemma", "left/both"), spillover=3)}
    profiles = {
        "coding": Profile({"llm": "best", "pool2": "pool", "far": "left/mine", "off": None, "qwen": "gemma"}),
        "empty": Profile({"llm": None}),
    }
    return replace(config, peers=peers, selectors=selectors, profiles=profiles)


@pytest.mark.parametrize(
    ("name", "peer", "model", "rename", "filters"),
    [
        ("left/both", "left", "both", "both", STRIPPED),
        ("right/both", "right", "both", "both", Filters()),
        ("left/mine", "left", "mine", "mine", COLD),
        ("mine", "left", "mine", None, COLD),
        ("left/qwen", "left", "qwen", "qwen", STRIPPED),
        ("qwen", None, "qwen", None, STRIPPED),
        ("gemma", None, "gemma", "google/gemma", Filters()),
    ],
)
def test_peers_and_their_models(name: str, peer: str | None, model: str, rename: str | None, filters: Filters) -> None:
    """A peer's model has its whole name, which the peer is not told, and its own where no other has it; ours win."""
    target = Names(world()).resolve(name)

    assert isinstance(target, Target)
    assert (target.peer, target.model, target.rename, target.filters) == (peer, model, rename, filters)


def test_a_name_of_two_peers_is_none() -> None:
    """Who means one of them has to say which."""
    with pytest.raises(ModelNotFound):
        Names(world()).resolve("both")


def test_a_selector_is_a_choice() -> None:
    """Each target is told the name that was meant, unless its model has another one for its server."""
    choice = Names(world()).resolve("pool")

    assert isinstance(choice, Choice)
    assert (choice.strategy, choice.spillover) == (Strategy.SPILLOVER, 3)
    assert [(target.whole_name, target.rename) for target in choice.targets] == [
        ("qwen", "best"),
        ("gemma", "google/gemma"),
        ("left/both", "both"),
    ]
    assert {target.selector for target in choice.targets} == {"pool"}


def test_a_selector_is_no_part_of_a_path() -> None:
    """A path leads to a child, and which one that is must not change between two requests."""
    with pytest.raises(ModelNotFound):
        Names(world()).split(["pool", "v1"])


def test_pins_hold_while_their_profile_is_active() -> None:
    """A pin stands for what it is pinned to, and hides a model of that name; it does not lead to another pin."""
    names = Names(world())
    with pytest.raises(ModelNotFound):
        names.resolve("llm")
    names.activate("coding")
    target, far, choice, hidden = (names.resolve(name) for name in ("llm", "far", "pool2", "qwen"))

    assert isinstance(target, Target)
    assert (target.model, target.rename, target.filters) == ("qwen", "best", STRIPPED)
    assert isinstance(far, Target)
    assert (far.peer, far.rename) == ("left", "mine")
    assert isinstance(choice, Choice)
    assert isinstance(hidden, Target)
    assert hidden.model == "gemma"

    names.activate(None)
    assert names.resolve("qwen").model == "qwen"  # type: ignore[union-attr]


def test_a_pin_to_nothing_is_a_name_without_a_model() -> None:
    """An owner may switch a name off."""
    names = Names(world())
    names.activate("coding")
    with pytest.raises(NoModelNamed):
        names.resolve("off")
    with pytest.raises(NoModelNamed):
        names.split(["off", "v1"])


def test_pins_stand_in_paths_too() -> None:
    """`/upstream/PIN/...` leads to what the pin means."""
    names = Names(world())
    names.activate("coding")

    assert names.split(["llm", "v1"])[0].model == "qwen"


def test_an_unknown_profile_changes_nothing() -> None:
    """The one that was active stays so."""
    names = Names(world())
    names.activate("coding")
    with pytest.raises(ProfileNotFound, match='profile "x" not found'):
        names.activate("x")

    assert names.active_profile == "coding"
