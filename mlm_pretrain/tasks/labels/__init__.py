"""Labels as people write them down.

- `names`: cells of tables, and the names of labels in their order. `columns`: by the keys of the config.
- `schemes`: tags of entities (IOB1, IOB2, BIOES). `spans`: entities by characters. `words`: what a word is.
- `windows`: long texts. `squad`: answers, and how they are scored.
- `unusable`: rows that can't be used, found in one pass and reported together.
"""
