"""Model cards: of a run's encoder, and of each fine-tuned task.

- `card`: writes them; the words are in `model_cards/*.jinja`. Start here.
- `tables`, `task_tables`: their tables, rows of text out of `records`.
- `pictures`: their plots, PNG files beside the card.
- `citation`: how to cite a model, and what it rests on.
"""
