"""Policies and reward models on sets of one's own."""
