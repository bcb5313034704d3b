"""What is wrong with the options and the binary of a model, in the words of the catalogue; nothing is read here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.config.problems import nearest
from supervisor.config.schema import MODEL
from supervisor.llama.arguments import argument_problems
from supervisor.llama.binary import BinaryNotFound, NotExecutable
from supervisor.llama.command import SECRETS
from supervisor.llama.diagnosis import Diagnosis, first_known, found
from supervisor.llama.files import ROLES
from supervisor.llama.flags import check_options
from supervisor.llama.help_cache import HelpFailed
from supervisor.llama.warnings import ModelWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from supervisor.config.values import Option
    from supervisor.llama.arguments import Argument
    from supervisor.llama.command import Surroundings
    from supervisor.llama.help_text import Catalogue

BOUNDED = frozenset({"parallel", "np", "main-gpu", "mg"})
"""Options whose number llama-server itself checks while it reads its arguments."""


def flag_problems(catalogue: Catalogue | None, options: dict[str, Option]) -> Iterator[Diagnosis]:
    """What this binary does not know, does not take any more, or would not take so."""
    if catalogue is None:
        return
    known = {key: value for key, value in options.items() if key not in SECRETS}
    for problem in check_options(catalogue, known):
        flag = catalogue.find(problem.key)
        if flag is not None and flag.removed:
            yield found("removed_flag", message=problem.message, hint=problem.hint)
            continue
        ours = nearest(problem.key.replace("-", "_"), MODEL) if problem.cause == "unknown_flag" else None
        hint = f"did you mean our own key `{ours}`?" if ours else problem.hint
        yield found(problem.cause, message=problem.message, hint=hint, flag=problem.key)


def words_problems(catalogue: Catalogue, arguments: Sequence[Argument]) -> tuple[list[Diagnosis], list[ModelWarning]]:
    """What this binary would refuse, and what it would take for something else, which has run so far."""
    problems, warnings = [], []
    for problem in argument_problems(catalogue, arguments):
        if problem.is_misread:
            warnings.append(ModelWarning("value_misread", problem.message, problem.hint))
        else:
            problems.append(found(problem.cause, message=problem.message, hint=problem.hint, flag=problem.key))
    return problems, warnings


def from_home(problem: Diagnosis, around: Surroundings) -> Diagnosis:
    """A path that begins with `~` is missing for a reason of its own."""
    if f"`{around.base}/~/" not in problem.message:
        return problem
    return replace(problem, hint="no shell runs `cmd`, so `~` is the name of a directory: write the path out")


def trial_words(arguments: Sequence[Argument]) -> Iterator[str]:
    """The words of a command that its binary may judge in a trial."""
    for each in arguments:
        if is_worth_a_trial(each.key, each.option) and each.key not in {"host", "port", *SECRETS}:
            yield from (each.typed, *each.values)


def draft_warnings(catalogue: Catalogue | None, options: dict[str, Option]) -> Iterator[ModelWarning]:
    """A draft model without a kind of speculation is loaded and never used, and only a trace log says so."""
    has_draft = options.keys() & {"spec-draft-model", "model-draft", "md"}
    if has_draft and "spec-type" not in options and catalogue and catalogue.find("spec-type"):
        message = "the draft model is loaded but not used unless it is of a kind that llama-server recognises"
        yield ModelWarning("draft_unused", message, 'set `spec-type = "draft-simple"`')


def is_worth_a_trial(key: str, value: Option) -> bool:
    """Files have been looked at and names are free; numbers are mostly right, but a few have bounds."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return key not in ROLES and key != "alias" and not (is_number and key not in BOUNDED)


def wants_gpu(options: dict[str, Option]) -> bool:
    """Whether layers are asked for a device."""
    if options.get("device", options.get("dev")) == "none":
        return False
    layers = next((options[key] for key in ("n-gpu-layers", "gpu-layers", "ngl") if key in options), 0)
    return layers == "all" or (isinstance(layers, int) and layers > 0)


def binary_problem(exc: BinaryNotFound | NotExecutable | HelpFailed) -> Diagnosis:
    """Why a binary cannot be used."""
    match exc:
        case BinaryNotFound():
            return found("binary_not_found", message=exc.message, hint=exc.hint, evidence=exc.looked)
        case NotExecutable():
            return found(exc.cause, message=exc.message, hint=exc.hint)
        case HelpFailed():
            lines = exc.stderr.splitlines()
            if isinstance(exc.__cause__, OSError):
                lines.append(f"{exc.binary}: {exc.__cause__.strerror}")
            return first_known(lines) or found("binary_does_not_run", message=exc.message, evidence=lines[-5:])
