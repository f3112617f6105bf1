"""Files, read and written in one place: no other room opens a user's file.

Nothing here knows what a document, an example or a model is. A file is bytes, characters, lines and records, in this
order; every reader of the package is built on one of these, so that the same file means the same everywhere:

- `formats`: which format and compression a name means.
- `compression`: its bytes (gz, zst, xz, bz2), and what can be wrong with them in one line.
- `lines`: its characters in any encoding, and its lines, bounded; what can't be read is marked, not raised.
- `tables` (csv, tsv), `json_lines`, `squad` (the nested file), `parquet`, `conll`: the records of each format.
- `records`: the records of a file of any format, with their places and problems; `tally` counts them in a line.
- `reading`: `encoding`, `quoting` and `delimiter`, which no name tells.

Of the package's own files: `paths` (inside which folder), `whole` (written whole or not at all), `digests`, `locks`,
`plain_json`, `cache` (the folder for what outlives a run).

Start with `records.py`. Pretraining takes `lines`, `tables` and `parquet` by itself (`text/readers.py`), because it
cuts files into pieces and resumes in the middle of them.
"""
