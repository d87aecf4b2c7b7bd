"""Speed, memory and agreement of this package's parts beside what a user would pick instead.

`python -m benchmarks` is the command. All competitors of a comparison run in turn in one process,
their weights are the same, and their outputs are compared in the same run.
"""
