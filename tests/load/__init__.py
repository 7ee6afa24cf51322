"""Load against a running cluster, and the reading back that proves nothing acknowledged was lost.

``python -m tests.load --help`` teaches the command line; `tests.support.load.chat` is what crash tests drive.
"""
