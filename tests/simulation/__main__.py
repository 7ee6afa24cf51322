"""Tell one schedule as a story: ``python -m tests.simulation SEED [BUG]``."""

import sys

from tests.simulation.run import run
from tests.simulation.violation import Violation

if __name__ == "__main__":
    try:
        outcome = run(int(sys.argv[1]), bugs=frozenset(sys.argv[2:]), tell=print)
    except Violation as violation:
        sys.exit(f"VIOLATION {violation}")
    print(f"settled {outcome.settled_s:.2f} s after the last fault; {dict(outcome.seen)}")
