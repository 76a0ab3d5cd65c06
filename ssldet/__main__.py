"""`python -m ssldet`: the command line, where its script is not on the path."""

from ssldet.cli import main

if __name__ == "__main__":
    main(prog_name="ssldet")
