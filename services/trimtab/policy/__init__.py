"""The policy process: one policy id for life. Renders, generates, records the completion, answers."""
