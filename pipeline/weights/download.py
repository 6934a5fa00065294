"""Fetching weights from the Hugging Face hub; the only place of the project that uses a network, and only when told to."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.weights.digest import verified_sha256
from pipeline.weights.files import Condition, Found, find
from pipeline.weights.registry import Weights


def download(wanted: Iterable[Weights], folder: Path) -> list[Found]:
    """Fetch what is not there whole; a file goes below `folder`, a diffusers folder into the hub's own cache.

    Raises:
        PipelineError: the hub cannot be reached, refuses, or sent something else than expected; the message says what to do.
    """
    return [_one(weights, folder) for weights in wanted]


def _one(weights: Weights, folder: Path) -> Found:
    found = find(weights, folder)
    if found.condition is not Condition.THERE:
        _fetch(weights, folder)
        found = find(weights, folder)
        if found.condition is not Condition.THERE:
            raise PipelineError(f"{weights.title} was downloaded and is still {found.condition}: {found.reason}")
    if weights.sha256:
        verified_sha256(found)
    return found


def _fetch(weights: Weights, folder: Path) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError

    try:
        if weights.folders:
            patterns = ["model_index.json", *(f"{name}/*" for name in (*weights.folders, *weights.configs))]
            snapshot_download(weights.repo, allow_patterns=patterns)
        else:
            target, below = folder / weights.name, folder / weights.name.removesuffix(weights.title)
            hf_hub_download(weights.repo, weights.title, local_dir=below, force_download=target.exists())
    except GatedRepoError:
        raise PipelineError(
            f"{weights.repo} is gated: accept its licence at https://huggingface.co/{weights.repo}, then run: hf auth login"
        ) from None
    except (HTTPError, OSError) as error:  # all that the hub's client raises without a network is one of the two
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PipelineError(
            f"{weights.title} could not be fetched from https://huggingface.co/{weights.repo}: {reason}\n"
            f"Without a network, copy it from another machine to {folder / weights.name}"
        ) from None
