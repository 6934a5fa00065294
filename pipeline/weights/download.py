"""Fetching weights from the Hugging Face hub; the only place of the project that uses a network, and only when told to."""

import socket
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from pipeline.errors import PipelineError
from pipeline.weights.digest import verified_sha256
from pipeline.weights.files import Condition, Found, find
from pipeline.weights.registry import Weights

PATIENCE_S = 10.0


def download(wanted: Iterable[Weights], folder: Path) -> list[Found]:
    """Fetch what is not there whole; a file goes below `folder`, a diffusers folder into the hub's own cache.

    Raises:
        PipelineError: the hub cannot be reached, refuses, or sent something else than expected; the message says what to do,
            a line for each that is lacking.
    """
    found: list[Found] = []
    failures: list[PipelineError] = []
    offline = cache(why_offline)  # asked once, and not at all where nothing is lacking
    for weights in wanted:
        try:
            found.append(_one(weights, folder, offline))
        except PipelineError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise PipelineError("\n".join(map(str, failures)))
    return found


def why_offline() -> str | None:
    """Why the hub cannot be reached at all, so that its client need not try for half a minute and a page; None where it can.

    Behind a proxy only the client can tell.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if getproxies():
        return None
    hub = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), timeout=PATIENCE_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _one(weights: Weights, folder: Path, offline: Callable[[], str | None]) -> Found:
    found = find(weights, folder)
    if found.condition is not Condition.THERE:
        reason = offline()
        if reason:
            raise PipelineError(_unfetched(weights, folder, f"offline ({reason})"))
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
            target = folder / weights.name
            hf_hub_download(weights.repo, weights.title, local_dir=target.parent, force_download=target.exists())
    except GatedRepoError:
        raise PipelineError(
            f"{weights.repo} is gated: accept its licence at https://huggingface.co/{weights.repo}, then run: hf auth login"
        ) from None
    except (HTTPError, OSError) as error:  # all that the hub's client raises without a network is one of the two
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PipelineError(_unfetched(weights, folder, reason)) from None


def _unfetched(weights: Weights, folder: Path, reason: str) -> str:
    return (
        f"{weights.title} could not be fetched from https://huggingface.co/{weights.repo}: {reason}; "
        f"copy it from another machine to {folder / weights.name}"
    )
