"""How fast, and at what cost: everything is measured against something else in the same interleaved run.

A figure alone says little about the program and much about the machine and its neighbours; so the ratios are what the
project holds itself to, and every ratio's two sides alternate within one run.  ``python -m tests.benchmarks --help``.
"""
