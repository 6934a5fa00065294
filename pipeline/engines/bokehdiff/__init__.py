"""BokehDiff (ICCV 2025): SDXL with a LoRA that draws lens blur in one step, without noise.

The weights are the authors', the code is this project's, written from the published facts and diffusers' own modules. What sets
the network apart from SDXL as it is, the self-attention that knows circles of confusion, is `pisa.py`; where its conventions
are wrong in the published program, ours are right and the published ones are options.
"""

from pipeline.engines.bokehdiff.engine import BokehDiff

ENGINE = BokehDiff
