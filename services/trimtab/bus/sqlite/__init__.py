"""The embedded event log: one SQLite file that several processes append to and read.

Reading order: `log` (the port's methods), `writer` (group commit), `reader` (blocking polls), `cleaning` (compaction
and retention), `file` (schema, connections, the fair lock).

Never open the file with the standard library's `sqlite3` inside such a process: closing that second library's handle
would drop this one's locks.
"""

from trimtab.bus.sqlite.log import SqliteLog as SqliteLog
