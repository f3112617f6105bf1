"""The figures of `bench.py`: each module has a function of its own name.

It takes the minutes it may last, an empty folder and the user's own text (or None), and returns named numbers; its
docstring says what they measure, and how.
"""
