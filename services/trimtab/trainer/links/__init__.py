"""What passes between the trainer and the rest of the platform: what topics and ledger say, what is published."""
