"""Forward passes without gradients: `logits` of many rows; `sentence_vectors`, made as `sentence_files` of a checkpoint
say; `linear`: linear layers at the full speed of a CPU.
"""
