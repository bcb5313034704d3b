"""The comments of a llama-swap file, and what each speaks of."""

from __future__ import annotations

import pytest

from supervisor.config.llama_swap.comments import comments_of


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("# a\n\n# b\n# c\n\n# d\nmodels: {}\n", [(), (), (), ("models",)]),
        ("# a\n# b\nmodels: {}\n", [(), ()]),
        ("\n# a\nmodels: {}\n", [("models",)]),
        ("models: {}\n\n# a\n\n# b\nmacros: {}\n", [("macros",), ("macros",)]),
    ],
)
def test_what_is_about_the_whole_file(text: str, paths: list[tuple[str, ...]]) -> None:
    """All at the top, but for what stands right above the first key below a line of nothing."""
    assert [comment.path for comment in comments_of(text)] == paths


def test_texts_are_indented_as_they_were() -> None:
    """It may be YAML that somebody has switched off, or a ruler."""
    text = "models:\n  a: {}\n  # b:\n  #   ttl: 5   \n  #ttl: 6\n  ##### c\n"

    assert [comment.text for comment in comments_of(text)] == ["b:", "  ttl: 5", "ttl: 6", "#### c"]


def test_lines_of_commands_and_macros() -> None:
    """llama-swap takes them out of both, once the macro is part of a command; elsewhere a text is a text."""
    block = ": |\n{0}# one\n{0}--temp 1\n{0}# two\n"
    text = "macros:\n  m" + block.format("    ") + "models:\n  a:\n"
    text += "".join(f"    {key}" + block.format("      ") for key in ("cmd", "cmdStop", "description"))

    assert [(comment.path, comment.text, comment.words.strip()) for comment in comments_of(text)] == [
        (path, text, words)
        for path in (("macros", "m"), ("models", "a", "cmd"), ("models", "a", "cmdStop"))
        for text, words in (("one", "--temp 1"), ("two", ""))
    ]
