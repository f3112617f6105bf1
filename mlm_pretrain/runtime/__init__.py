"""What both loops stand on, pretraining and fine-tuning.

- `processes`: what the processes of a run agree on. `interrupts`: what asks them to stop. `ending`: how a stage ended.
- `checkpoint`: whole or not there. `trackers`: those of `training.report_to`.
- `loss`: sums over the global batch, divided by its labels. `bad_loss`: what would ruin a training.
- `optim`, `schedule`: optimizers and learning rates, by name.
"""
