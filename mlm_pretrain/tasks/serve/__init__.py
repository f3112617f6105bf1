"""What finished models are used for: `predict`, `evaluate`, and `embed` for any encoder.

`finished`: a fine-tuned model as its folder tells it. `output`: files of predictions, whole or resumed.
`embedding_files`: those of vectors.
"""
