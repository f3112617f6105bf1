"""Files, read and written in one place: no other room opens a user's file.

Nothing here knows what a document, an example or a model is.
"""
