"""The chat domain: ids, commands, events, refusals and the pure rules that join them.

Nothing here reads a clock, draws a random number or does I/O, and nothing here imports another room of the project.
"""
