"""Tokenizers: `tokenizer` trains and loads them, `added_words` gives words to one, `report` says how it does on text
that it hasn't seen, `vocabulary` is what masking needs to know of it.
"""
