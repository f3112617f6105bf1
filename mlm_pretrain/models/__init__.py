"""Masked language models and encoders, made by transformers; every checkpoint comes in here.

- `loading`: the one door for configs, tokenizers and weights. `low_rank`: adapters, merged. `ids`: what a tokenizer
  asks of a model. `encoder`: any of them under the head of a task.
- `build`: a new model, from a preset (`presets/`), an architecture or a checkpoint. Start here.
- `initialisation/`: how its weights begin. `attention/`: documents that share a row without seeing each other.
- `masked_head`: logits at the masked positions alone. `flops`: what a model costs.
"""
