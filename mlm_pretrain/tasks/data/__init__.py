"""The examples of a task: `readers` (rows of any file) → `examples` → `splits` (train, validation, test) → `materials`,
what a task learns from, looked at before there is any model. `installed_docs`: two sets that need no file.
"""
