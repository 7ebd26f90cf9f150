"""The parts of a training run, one subject each; the loop itself stands in train.py."""

import utils  # noqa: F401  # before anything imports peft: it keeps code from the hub out
