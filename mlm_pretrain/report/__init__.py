"""One HTML file on one run, or on several beside each other; it needs nothing else.

- `runs`: the records of the runs, and curves of a size that a page can hold.
- `plots`: a drawing as SVG and as a PNG file; `curves` are those of pretraining, `task_plots` those of tasks.
- `tables`: the tables on pretraining; `tasks`: the sections on tasks, with `confusion` and `mistakes`.
- `page`: puts them together. Start here.
"""
