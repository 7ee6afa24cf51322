"""Tell one schedule as a story: ``python -m tests.simulation SEED [BUG]``."""

import sys
from contextlib import nullcontext

from tests.simulation.mutants import MUTANTS, patched
from tests.simulation.run import run
from tests.simulation.violation import Violation

if __name__ == "__main__":
    try:
        bug = next((each for each in MUTANTS if each.name in sys.argv[2:]), None)
        with patched(bug) if bug is not None else nullcontext():
            outcome = run(int(sys.argv[1]), tell=print)
    except Violation as violation:
        sys.exit(f"VIOLATION {violation}")
    print(f"settled {outcome.settled_s:.2f} s after the last fault; {dict(outcome.seen)}")
