"""Cycles and runs: what is asked for, what is under way, and the child processes that do it."""
