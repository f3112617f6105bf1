"""What a machine can do: `device` (and the precision that is fast on it), `machine` (its arithmetic, measured or by
its data sheet), `energy` (what a run spends).
"""
