"""Files of documents: `listing` (which there are) → `digests` (what identifies them) → `pieces` (large ones, cut
where a document begins) → `readers` (their documents; `plain` of plain text) → `long` (what is too long is several
documents).
"""
