"""The event log: a port shaped by Kafka's semantics, its adapters, and the runner that consumes it."""
