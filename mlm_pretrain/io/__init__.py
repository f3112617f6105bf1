"""Files, read and written in one place: no other room opens a user's file.

Nothing here knows what a document, an example or a model is. A file is bytes, characters, lines and records, in this
order; every reader of the package is built on one of these, so that the same file means the same everywhere:

- `files/`: users' files, from bytes to records. Start with `files/records.py`.
- `whole`: our own files and folders, written whole or not at all. `paths`: inside which folder. `digests`, `locks`,
  `plain_json`, `cache` (the folder for what outlives a run), `remembered` (what was measured on this machine).
"""
