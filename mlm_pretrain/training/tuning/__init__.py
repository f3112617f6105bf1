"""How a step is made fastest on this device: `search` compares in rounds what `measured` doesn't know yet, by trial
passes (`probe`), `compiling` with a trial on one layer.
"""
