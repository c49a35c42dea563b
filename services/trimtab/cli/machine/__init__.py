"""The platform on this machine: its processes, its registry, and the doors through which it is asked."""
