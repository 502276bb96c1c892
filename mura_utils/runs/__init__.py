"""Runs: the record of one, its notebooks executed, many of them, side by side."""
