"""What goes to the Hub: the encoder to one repository, each task to one of its own.

- `files`: what may leave the machine, by a list of names, and what is refused all the same.
- `transfer`: one commit a repository and revision, and what can go wrong in one line.
- `checkpoints`: the encoder as it was after a step, on a branch `step-…`.
- `push`: a run and its tasks, once. Start here. `background`: checkpoints, while the run goes on.
"""
