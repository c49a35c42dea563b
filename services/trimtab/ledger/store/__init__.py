"""The ledger's tables: SQLAlchemy Core over SQLite or PostgreSQL. Only `trimtab.ledger` calls it."""
