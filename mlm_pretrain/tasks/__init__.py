"""Tasks: what an encoder is fine-tuned for, from labelled files to a model that labels.

From left to right, as imports go:

- `labels/`: labels, tags, spans and words, as tables and files have them. `scores/`: what predictions are worth.
- `adapter`: what a task is to everything here. Start with it.
- `kinds/`: the tasks, a file each. `data/`: their examples, from files, the Hub or the installed documentation.
- `inference/`: logits of many rows, and vectors of texts. `export`: a finished model as a folder.
- `fit/`: fine-tuning. `serve/`: `predict`, `evaluate`, `embed`, which need nothing of `fit/`.
"""
