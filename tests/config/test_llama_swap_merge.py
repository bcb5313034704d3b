"""Several files as one: what adds up, what may be repeated, and what is a conflict (spec: llama-swap.md, 3.1)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.llama_swap.merge import IDENTITIES, merged
from supervisor.config.llama_swap.scalars import Scalar
from supervisor.config.loader import load, load_yaml
from supervisor.config.place import Sheet
from supervisor.config.problems import ConfigInvalid
from tests.config.swap_files import of_files, problems_of_files

MODEL = "models: {%s: {cmd: 's ${PORT}'}}"

SCALARS = st.sampled_from(["1", "2", "x", "", "true"]).map(Scalar)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "b", "models", "groups"]), TREES, max_size=4)


def test_mappings_merge_and_lists_add_up() -> None:
    """Models, macros and keys may be in any file; ports are given as if there were one."""
    read = of_files(
        f"{MODEL % 'b'}\napiKeys: [x]\nmacros: {{m: 1}}",
        f"{MODEL % 'a'}\napiKeys: [y]\nglobalTTL: 5\nmacros: {{n: 2}}",
        "performance: {disabled: true}",
    )

    assert {name: model.port for name, model in read.models.items()} == {"b": 5801, "a": 5800}
    assert read.server.api_keys == ("x", "y")
    assert read.models["b"].ttl == 5
    assert read.server.performance.disabled


def test_a_scalar_may_be_repeated() -> None:
    """But not as another type."""
    assert of_files("globalTTL: 5", "globalTTL: 5").models == {}
    assert problems_of_files("name: 5", "name: '5'")[0].startswith(
        "name (b.yaml line 1): expected the value that another"
    )


def test_null_yields() -> None:
    """Whichever file has it."""
    for files in [("logLevel: debug", "logLevel:"), ("logLevel:", "logLevel: debug"), ("groups:", "groups: {}")]:
        assert of_files(*files).server.log_level in {"debug", "info"}
    assert of_files("logLevel:", "logLevel: debug").server.log_level == "debug"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("globalTTL: 1", "globalTTL: 2", "globalTTL (b.yaml line 1): expected the value that another file gives"),
        (
            "ui: {activity: {session_id: [a]}}",
            "ui: {activity: 1}",
            "ui.activity (b.yaml line 1): expected the same kind",
        ),
        ("apiKeys: [a]", "apiKeys: {a: 1}", "apiKeys (b.yaml line 1): expected the same kind of value in every file"),
        (MODEL % "m", MODEL % "m", "models.m (b.yaml line 1): expected each entry of `models` in one file"),
        (
            "groups: {g: {members: []}}",
            "groups: {g: {members: []}}",
            "groups.g (b.yaml line 1): expected each entry of",
        ),
        ("profiles: {p: 1}", "profiles: {p: 1}", "profiles.p (b.yaml line 1): expected each entry"),
        ("selectors: {p: 1}", "selectors: {p: 1}", "selectors.p (b.yaml line 1): expected each entry"),
        ("peers: {p: 1}", "peers: {p: 1}", "peers.p (b.yaml line 1): expected each entry"),
        ("matrix: {sets: {a: b}}", "matrix: {sets: {c: d}}", "matrix.sets (b.yaml line 1): expected each entry"),
    ],
)
def test_conflicts(first: str, second: str, expected: str) -> None:
    """Each with the file and the line that came second."""
    assert any(problem.startswith(expected) for problem in problems_of_files(first, second))


@pytest.mark.parametrize("kind", ["groups", "matrix"])
def test_entries_of_the_new_place_are_in_one_file_too(kind: str) -> None:
    """Wherever groups and matrix are said."""
    text = f"routing: {{router: {{settings: {{{kind}: {{g: 1}}}}}}}}"

    expected = f"routing.router.settings.{kind}.g (b.yaml line 1): expected each entry of"
    assert any(problem.startswith(expected) for problem in problems_of_files(text, text))


@given(DOCUMENTS, DOCUMENTS)
def test_merging_is_idempotent_but_for_what_has_an_identity(first: dict, second: dict) -> None:  # type: ignore[type-arg]
    """Nothing of either side is lost unless it is a conflict; an empty document changes nothing."""
    sheet = Sheet({})
    result = merged([first, second], sheet)

    assert merged([first, {}], Sheet({})) == merged([{}, first], Sheet({})) == first
    assert result.keys() == first.keys() | second.keys()
    if not sheet.problems:
        for document in (first, second):
            assert_in(document, result)


def assert_in(part: object, whole: object) -> None:
    """Every scalar of a part is somewhere in the same place of the whole."""
    if isinstance(part, dict) and part:
        assert isinstance(whole, dict)
        for key, value in part.items():
            assert_in(value, whole[key])
    elif isinstance(part, list) and part:
        assert isinstance(whole, list)
        assert all(each in whole for each in part)
    elif isinstance(part, Scalar) and not part.is_null:
        assert part == whole


def test_every_mapping_with_an_identity_is_one() -> None:
    """The list is that of llama-swap."""
    assert {each.rpartition(".")[2] for each in IDENTITIES} == {
        "models",
        "groups",
        "profiles",
        "selectors",
        "peers",
        "matrix",
    }


def test_a_folder_is_merged_after_the_file_in_the_order_of_names(tmp_path: Path) -> None:
    """Only its own *.yml and *.yaml; empty ones do no harm."""
    folder = tmp_path / "conf.d"
    (folder / "deeper").mkdir(parents=True)
    (folder / "sub.yaml").mkdir()
    (tmp_path / "config.yaml").write_text("apiKeys: [first]")
    (folder / "b.yml").write_text("apiKeys: [b]")
    (folder / "a.yaml").write_text(f"apiKeys: [a]\n{MODEL % 'm'}")
    (folder / "c.yaml").write_text("# nothing")
    (folder / "d.txt").write_text("apiKeys: [d]")
    (folder / "deeper" / "e.yaml").write_text("apiKeys: [e]")

    read = load_yaml(tmp_path / "config.yaml", folder=folder, environ={})

    assert read.server.api_keys == ("first", "a", "b")
    assert load_yaml(None, folder=folder, environ={}).server.api_keys == ("a", "b")
    assert read.base == Path.cwd()


def test_a_conflict_names_the_file(tmp_path: Path) -> None:
    """Of several."""
    (tmp_path / "a.yaml").write_text("globalTTL: 1")
    (tmp_path / "b.yaml").write_text("\nglobalTTL: 2")

    with pytest.raises(ConfigInvalid) as raised:
        load_yaml(None, folder=tmp_path, environ={})

    assert raised.value.source == tmp_path
    assert f"globalTTL ({tmp_path / 'b.yaml'} line 2): expected the value that another" in str(raised.value)


def test_the_file_may_not_be_in_the_folder(tmp_path: Path) -> None:
    """It would be merged with itself."""
    (tmp_path / "a.yaml").write_text("")

    with pytest.raises(ConfigInvalid, match="expected a config outside of the config folder"):
        load_yaml(tmp_path / "a.yaml", folder=tmp_path, environ={})


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_files_is_no_config(tmp_path: Path, name: str) -> None:
    """Nor is one that is not there."""
    with pytest.raises(ConfigInvalid, match="expected a f"):
        load_yaml(None, folder=tmp_path / name, environ={})


@pytest.mark.parametrize("name", ["config.yaml", "config.yml", "config.toml"])
def test_the_suffix_tells_the_format(tmp_path: Path, name: str) -> None:
    """Two formats, one function."""
    path = tmp_path / name
    path.write_text('[server]\nlisten = ":1"' if name.endswith("toml") else "# llama-swap\n")

    assert load(path, environ={}).server.host == ""
    path.write_text("[server" if name.endswith("toml") else "a: [")
    with pytest.raises(ConfigInvalid, match=f"{name}: 1 problem"):
        load(path, environ={})


@pytest.mark.parametrize(("store", "is_fine"), [("a.db", True), (".", False), ("missing/a.db", False)])
def test_a_store_is_a_file_that_can_be_written(tmp_path: Path, store: str, is_fine: bool) -> None:
    """Told at the start, not when the first request is noted down."""
    path = tmp_path / "config.yaml"
    path.write_text(f"store: {{path: '{tmp_path / store}'}}")

    if is_fine:
        assert load(path, environ={}).server.store == str(tmp_path / store)
    else:
        with pytest.raises(ConfigInvalid, match=r"store.path: expected a file that can be written"):
            load(path, environ={})
