"""The parts of a training run, one subject each; the loop itself stands in train.py."""
