"""Feedback from a command line: given as an app would, or imported from elsewhere."""
