"""First-party metrics of ssldet."""
