"""Fine-tuning: `finetune` → `trials` → `loop`. Start with the first.

- `setup`: what all runs of a task share. `recipe`: what its config leaves open. `baselines`: the bag of words.
- `trials`: one run, from a plan to scores on disk. `loop`: batches, evaluations, checkpoints. `scoring`: its scores.
- `tuning/`: what of an encoder is trained. `layers`: learning rates that fall from layer to layer.
- `unpadding`: batches without padding.
"""
