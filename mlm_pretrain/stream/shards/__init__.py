"""Packed rows written ahead of training: `prepare` and `writing` make them, `reading` reads them."""
