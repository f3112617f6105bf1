"""The files that users bring: bytes → characters → lines → records.

- `formats`: which format and compression a name means.
- `compression`: a file's bytes (gz, zst, xz, bz2), and what can be wrong with them in one line.
- `lines`: its characters in any encoding, and its lines, bounded; what can't be read is marked, not raised.
- `tables` (csv, tsv), `json_lines`, `squad` (the nested file), `parquet`, `conll`: the records of each format.
- `records`: the records of a file of any format, with their places and problems; `tally` counts them in a line.
- `reading`: `encoding`, `quoting` and `delimiter`, which no name tells.

Pretraining takes `lines`, `tables` and `parquet` by itself (`text/files/readers.py`), because it cuts files into pieces
and resumes in the middle of them.
"""
