"""PISA in the place where it was trained: the self-attention of SDXL's first attention block."""

from typing import Any

from torch import Tensor

from pipeline.engines.bokehdiff.pisa import Geometry, Pisa, attention


class PisaProcessor:
    """An attention processor of diffusers. `where` is set before each call of the network and shared by the layers."""

    def __init__(self, pisa: Pisa) -> None:
        self.pisa = pisa
        self.where: Geometry | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        assert encoder_hidden_states is None and attention_mask is None, "PISA is self-attention over a whole tile"
        assert self.where is not None, "the geometry is set before the network is called"
        batch, tokens, _ = hidden_states.shape

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, tokens, attn.heads, -1).transpose(1, 2)

        query, key, value = (heads(layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        drawn = attention(query, key, value, self.where, attn.scale, self.pisa.renormalise)
        # The published dropout of 0.1 behind it stays on at inference there; here the layer is in eval mode.
        return attn.to_out[1](attn.to_out[0](drawn.transpose(1, 2).reshape(batch, tokens, -1)))


def install(unet: Any, pisa: Pisa) -> PisaProcessor:
    """Put PISA into the self-attention of each block of `down_blocks.1.attentions.0`; two in SDXL."""
    processor = PisaProcessor(pisa)
    for block in unet.down_blocks[1].attentions[0].transformer_blocks:
        block.attn1.set_processor(processor)
    return processor
