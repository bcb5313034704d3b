"""What a request's model name, or the beginning of a path, means."""

from __future__ import annotations

import difflib

import pytest

from supervisor.config.values import Filters, Model, Variant
from supervisor.errors import InvalidRequest, ModelNotFound
from supervisor.fleet.names import COMPARED_NAMES, MOST_SEGMENTS, Names
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
    with pytest.raises(InvalidRequest, match="names no `model`") as refusal:
        Names(config_of("qwen", "gemma")).resolve(None)

    assert refusal.value.status == 400
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
