"""Pretexts: how sequences are corrupted (in the loader), and what is learnt from them (on the device).

`base` is what one is to the rest, `mlm` and `random` the masked ones; `collator` is the masking for loops of others.
"""
