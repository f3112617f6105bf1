"""Attention over packed rows: `packed` makes a model keep its documents apart, and tries whether it does; `documents`
is how without a mask, `product` is attention as plain matrix products.
"""
