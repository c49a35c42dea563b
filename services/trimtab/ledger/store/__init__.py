"""The ledger's tables: SQLAlchemy Core over SQLite. Only `trimtab.ledger` calls it."""
