"""Tables beyond the paper as data: what this suite compares of its own accord."""
