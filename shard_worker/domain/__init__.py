"""The chat domain: ids, commands, events, refusals and the pure rules that join them.

Nothing here reads a clock, draws a random number or does I/O, and no module here imports another package of the
project.
"""
