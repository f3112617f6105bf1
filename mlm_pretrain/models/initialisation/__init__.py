"""How the weights of a new model begin: `registered` has the ways by name.

`cooccurrence`: vectors of tokens from the text itself, and `pathways`, layers that pass them on. `tiling`: from a
smaller model.
"""
