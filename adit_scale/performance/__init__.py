"""The time of a training step on paper: computing, exchanging, and what stands beside them. No torch.

constants.py  what devices and networks do, each number with its origin (constants.json)
modules.py    the denoiser's weights in the order of their use
traffic.py    the collectives of a step at every ZeRO stage, as DeepSpeed makes them
exchange.py   seconds of a collective on a network
step.py       seconds of a step by part
choice.py     ZeRO stage and micro-batch: the fastest that fits
"""
