"""How late an answer may come on a machine that has other things to do."""

SLACK_S = 4.0  # beyond a deadline; a client that has none waits for minutes
