"""What a run has recorded, typed: cards, report, summary, demo and plan read it here.

- `tasks`: what came of one task, its scores beside those of random weights, a bag of words and the majority.
- `facts`: everything that a run's cards tell, read from `results.json`, `config.yaml` and the tokenizer's report. Start
  here.
- `provenance`: which code made a run.
"""
