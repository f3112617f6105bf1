"""Pretraining: load → step → log → validate → save, until the budget is spent.

- `loop`: the loop. Start here. `state`: a run between two steps, made anew or resumed; `resume`: what makes it the
  same run.
- `numerics`: the choices that its bits depend on, kept in the run. `tuning/`: which of them is fastest here.
- `initialise`: how its model begins. `budget`: how much is spent. `short_rows`: short rows first.
- `records`: what it writes down. `validate`: the held-out pass. `utilisation`: what share of the device it uses.
"""
