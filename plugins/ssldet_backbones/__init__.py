"""First-party backbones of ssldet."""
