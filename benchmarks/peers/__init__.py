"""The peers' programs, one per file and job: short, and configured as each one's documentation says for the same safety.

They run in `.venv-bench` (requirements-bench.lock) and share `benchmarks.program` alone with ours.
"""
