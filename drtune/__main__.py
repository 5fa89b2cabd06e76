"""`python -m drtune`, which is `drtune`."""

from drtune.cli.main import main

if __name__ == "__main__":
    main(prog_name="drtune")
