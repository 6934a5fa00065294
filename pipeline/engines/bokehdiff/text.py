"""The one prompt, embedded once per base and kept as safetensors: no render node ever loads a text encoder.

77 tokens of 2048 numbers, the last hidden states but one of both encoders side by side, and the second encoder's 1280 pooled
ones. Embedded on the CPU in float32.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipeline.engines.genfocus.forward import Prompt
from pipeline.engines.genfocus.libraries import transformers
from pipeline.engines.genfocus.prompts import BOKEH_PROMPT, check_words, keep, read_kept, whole_encoder
from pipeline.errors import UsageError

_TOKENS = 77
_ENCODERS = (("", "CLIPTextModel"), ("_2", "CLIPTextModelWithProjection"))


def constant_text(base: Path, base_sha256: str, cache: Path) -> Prompt:
    """tokens (1, 77, 2048) and pooled (1, 1280), float32, from the cache or embedded and kept.

    Args:
        base: the SDXL folder; read only when the cache has nothing.
        base_sha256: of its content, text encoders and tokenizers included.
        cache: a folder; made when it is not there.

    Raises:
        UsageError: the text encoders or tokenizers are damaged or not whole.
    """
    origin = {"prompt": BOKEH_PROMPT, "sdxl_sha256": base_sha256, "clip_tokens": str(_TOKENS)}
    kept = read_kept(cache, origin)
    if kept is None:
        kept = embed(base)
        keep(cache, origin, kept)
    return kept


@torch.no_grad()
def embed(base: Path) -> Prompt:
    """The prompt through both text encoders. Raises UsageError as `constant_text`."""
    parts, pooled = [], torch.empty(0)
    for suffix, kind in _ENCODERS:
        try:
            encoder = whole_encoder(base / f"text_encoder{suffix}", kind, torch.float32)
            tokenizer: Any = transformers().CLIPTokenizer.from_pretrained(
                base / f"tokenizer{suffix}", local_files_only=True
            )
            ids = tokenizer(
                BOKEH_PROMPT, padding="max_length", max_length=_TOKENS, truncation=True, return_tensors="pt"
            ).input_ids
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UsageError(f"the text encoders in {base} cannot be loaded ({error}); fetch it again") from None
        check_words(tokenizer, BOKEH_PROMPT, base / f"tokenizer{suffix}")
        drawn = encoder(ids, output_hidden_states=True)
        parts.append(drawn.hidden_states[-2])
        pooled = drawn[0]  # of the second encoder in the end: its projection
    return Prompt(torch.cat(parts, dim=-1), pooled)
