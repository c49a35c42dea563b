"""The server kit of every process: settings, life, interceptors, error table, secrets."""
