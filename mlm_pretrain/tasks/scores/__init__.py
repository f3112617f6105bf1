"""What predictions are worth, and what users would take in place of an encoder.

- `metrics`, `entity_metrics`: the scores. `calibration`: whether probabilities are honest.
- `many_classes`: what is shown of thousands of classes.
- `bag_of_words`: linear models on words, `bag_of_texts` of whole texts, `bag_of_tags` of words in their sentences.
"""
