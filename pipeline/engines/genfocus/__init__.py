"""The published Genfocus networks (arXiv 2512.16923): FLUX.1-dev with small adapters that make it see images as conditions.

The weights are the authors', the code is this project's, written from the published facts and diffusers' own modules.
`deblur.py` is the engine of phase 2, `pipeline/engines/bokehnet.py` that of phase 5; both ask `network.py`. What sets them
apart from FLUX as it is, the forward pass with conditions, is `forward.py`.
"""

from pipeline.engines.genfocus.deblur import GenfocusDeblur

ENGINE = GenfocusDeblur
