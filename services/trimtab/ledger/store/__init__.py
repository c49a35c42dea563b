"""The ledger's tables: SQLAlchemy Core, SQLite embedded now, PostgreSQL later. Only `trimtab.ledger` calls it."""
