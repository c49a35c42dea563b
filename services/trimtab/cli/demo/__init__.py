"""`trimtab demo`: the whole loop on this machine with simulated users.

world: what the product is about and the demonstrations that ship with it. taste: what its users like, hidden from
the platform. users: they talk to the public HTTP API and vote. acts: what happens, in order. report: the table.
"""
