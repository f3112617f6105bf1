"""The kinds of tasks, a file each; `registered` imports them all.

`sequence` is what those have in common that say one thing of a whole text (`classification`, `multi_label`,
`regression`), `word_labelling` what those have that label words (`ner`, `tagging`).
"""
