"""Models that llama-server fetches itself: whether its cache has them already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.llama.warnings import ModelWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from supervisor.config.values import Option

REPOSITORIES = ("hf-repo", "hf", "hfr")


def download_warnings(options: Mapping[str, Option], environ: Mapping[str, str], home: Path) -> Iterator[ModelWarning]:
    """A first load that will take as long as a download is better known beforehand."""
    for key in REPOSITORIES:
        repository = options.get(key)
        if isinstance(repository, str) and not _is_cached(repository.partition(":")[0], environ, home):
            message = f"`{repository}` is not in llama-server's cache yet: the first load downloads it"
            yield ModelWarning(
                "not_downloaded", message, "raise `load_limit` (`healthCheckTimeout`) if that may take longer"
            )


def _is_cached(repository: str, environ: Mapping[str, str], home: Path) -> bool:
    owner, _, name = repository.partition("/")
    for cache in _caches(environ, home):
        try:
            # As the hub lays it out, and as llama.cpp did before.
            found = any(cache.glob(f"models--{owner}--{name}/snapshots/*/*.gguf")) or any(
                cache.glob(f"{owner}_{name}_*.gguf")
            )
        except (OSError, ValueError):
            continue
        if found:
            return True
    return False


def _caches(environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Where llama-server looks (spec: llama-server.md 1.6)."""
    for name, below in (("LLAMA_CACHE", ""), ("HF_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if environ.get(name):
            yield home / environ[name] / below
    cache = home / environ.get("XDG_CACHE_HOME", ".cache")
    yield cache / "huggingface" / "hub"
    yield cache / "llama.cpp"
