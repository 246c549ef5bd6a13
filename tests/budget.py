"""How much the tests try at random: FBS_TEST_BUDGET=10 is ten times as much as by default."""

import os


def budget(default):
    """A number of random cases, or of seconds to try some."""
    return max(1, round(default * float(os.environ.get("FBS_TEST_BUDGET", 1))))
