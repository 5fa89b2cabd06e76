"""`python -m drtune`, which is `drtune`; torchrun starts it as `torchrun -m drtune train ...` on every node."""

from drtune.cli.main import main

if __name__ == "__main__":
    main(prog_name="drtune")
