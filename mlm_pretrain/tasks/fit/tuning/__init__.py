"""What of an encoder is trained: everything (`adaptation`), low-rank adapters (`lora`), a head on features (`frozen`).

`choose` takes the one that a task's config names.
"""
