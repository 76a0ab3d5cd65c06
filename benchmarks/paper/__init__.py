"""The tables and figures of the paper as data: axes, rows, columns and settings."""
