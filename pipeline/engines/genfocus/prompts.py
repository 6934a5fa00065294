"""The two fixed prompts, embedded once per set of weights and kept as safetensors: no render node ever loads T5.

They are embedded on the CPU, whatever the engine's device is, by diffusers' own pipeline (512 T5 tokens without a mask, CLIP's
pooled vector). The file is named after, and says, what it was made from.
"""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.engines.genfocus.forward import Prompt
from pipeline.engines.genfocus.libraries import diffusers, transformers
from pipeline.errors import UsageError
from pipeline.storage.bounded import one_line
from pipeline.storage.files import write_shared
from pipeline.weights import user_cache

DEBLUR_PROMPT = "a sharp photo with everything in focus"
BOKEH_PROMPT = "an excellent photo with a large aperture"
PROMPTS = (DEBLUR_PROMPT, BOKEH_PROMPT)
TOKENS = 512
_ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"}

_log = logging.getLogger(__name__)


def cache_folder(given: str = "") -> Path:
    """The folder that was asked for, or prompts/ in the user's cache."""
    return Path(given) if given else user_cache() / "prompts"


def embedded_prompt(text: str, flux: Path, flux_sha256: str, dtype: torch.dtype, cache: Path) -> Prompt:
    """An embedded prompt from the cache; where it is not there, both prompts are embedded and kept.

    Args:
        text: one of PROMPTS.
        flux: the FLUX.1-dev folder; read only when the cache has nothing.
        flux_sha256: of its content, text encoders and tokenizers included.
        dtype: in which the encoders run and the result is kept.
        cache: a folder; made when it is not there. One that cannot be written costs the embedding on every start.

    Raises:
        UsageError: the text encoders or tokenizers are damaged or not whole.
    """
    origin = _origin(text, flux_sha256, dtype)
    kept = read_kept(cache, origin)
    if kept is None:
        made = _embed(PROMPTS, flux, dtype)
        for other, prompt in made.items():
            keep(cache, _origin(other, flux_sha256, dtype), prompt)
        kept = made[text]
    return kept


def _origin(text: str, flux_sha256: str, dtype: torch.dtype) -> dict[str, str]:
    return {"prompt": text, "flux_sha256": flux_sha256, "dtype": str(dtype), "t5_tokens": str(TOKENS)}


def _name(origin: dict[str, str]) -> str:
    text = "\n".join(f"{key}={value}" for key, value in sorted(origin.items()))
    return f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.safetensors"


def read_kept(cache: Path, origin: dict[str, str]) -> Prompt | None:
    """What was embedded from that origin before; None where it was not, or cannot be used."""
    path = cache / _name(origin)
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata() == origin:
                return Prompt(file.get_tensor("tokens"), file.get_tensor("pooled"))
            reason = "it was made from something else"
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever is in it, it can be made again
        reason = one_line(error)
    _log.warning("the embedded prompt %s is not used (%s); it is made again", path, reason)
    return None


def keep(cache: Path, origin: dict[str, str], prompt: Prompt) -> None:
    """Keep it for the next start, where the folder can be written."""
    tensors = {"tokens": prompt.tokens.contiguous(), "pooled": prompt.pooled.contiguous()}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_shared(cache / _name(origin), save(tensors, metadata=origin))
    except OSError as error:
        _log.warning("embedded prompts cannot be kept in %s (%s); the next start embeds them again", cache, error)


@torch.no_grad()
def _embed(texts: Iterable[str], flux: Path, dtype: torch.dtype) -> dict[str, Prompt]:
    try:
        encoders = {name: whole_encoder(flux / name, kind, dtype) for name, kind in _ENCODERS.items()}
        pipe = diffusers().FluxPipeline.from_pretrained(
            flux, transformer=None, vae=None, local_files_only=True, **encoders
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"the text encoders in {flux} cannot be loaded ({error}); fetch FLUX.1-dev again") from None
    embedded = {}
    for text in texts:
        for name in ("tokenizer", "tokenizer_2"):
            check_words(getattr(pipe, name), text, flux / name)
        tokens, pooled, _ = pipe.encode_prompt(text, device="cpu", max_sequence_length=TOKENS)
        embedded[text] = Prompt(tokens.to(dtype), pooled.to(dtype))
    return embedded


def whole_encoder(folder: Path, kind: str, dtype: torch.dtype) -> Any:
    """A text encoder none of whose weights are random, as transformers would leave those that its files lack."""
    how = {"dtype": dtype, "local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = getattr(transformers(), kind).from_pretrained(folder, **how)
    lacking = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
    if lacking:
        raise ValueError(f"{folder.name} lacks {len(lacking)} tensors or has them in other sizes, first {lacking[0]}")
    return model


def check_words(tokenizer: Any, text: str, folder: Path) -> None:
    """A tokenizer without its vocabulary takes every word for an unknown one, and says nothing."""
    known = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
    if "".join(known.split()) != "".join(text.split()):
        raise UsageError(
            f"{folder} reads {text!r} as {known.strip()!r}: its vocabulary is not whole; fetch the folder again"
        )
