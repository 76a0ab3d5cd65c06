"""Where the tasks of a grid are carried out."""
