"""First-party strategies of ssldet."""
