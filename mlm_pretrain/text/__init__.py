"""Text: from files to documents, and from documents to tokens.

- `files/`: which files there are, and the documents in them. `docstrings`, `installed_docs`: the corpus that needs
  none.
- `sources`: every source as a stream of documents. Start here. `datasets_cache`: where `datasets` may write.
- `mixture`: what is held out, what is dropped, and in which proportions sources are read. `duplicates`: exact copies.
- `extent`: how much text there is.
- `tokenizing/`: tokenizers and their vocabularies.
"""
