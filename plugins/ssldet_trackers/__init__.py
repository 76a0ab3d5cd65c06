"""Trackers: where the numbers of a run's log can go beside its file; each imports its library when it is asked for."""
