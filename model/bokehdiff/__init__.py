"""Training of BokehDiff: an SDXL, its LoRA and a part of its VAE, from pairs of sharp pictures and photographs.

The network is the engine's (`pipeline.engines.bokehdiff`): the same parts, the same attention, the same one step. Here are the
data, the losses and the optimisers; what is trained goes back into the engine as the two files it knows.
"""
