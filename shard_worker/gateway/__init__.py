"""The gateway: HTTP in, requests to a thread's owner out, and the worker's management port.

It keeps no state of threads and decides no rule of theirs; what it decides is whether a request has the right shape.
"""
