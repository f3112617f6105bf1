"""What a run says while it works; only rank zero speaks.

- `telemetry`: lines, tables, and `metrics.jsonl`. Start here. `bars`: what is being done, with speed and time left.
- `spent`: where the time goes, by activity. `outlook`: how long a command of several stages will take.
"""
