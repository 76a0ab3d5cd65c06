"""First-party datasets of ssldet."""
