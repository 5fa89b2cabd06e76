"""Training as torchrun starts it on every node: `torchrun -m drtune.train --config ... --prompts ... --out ...`."""

from drtune.commands import main

if __name__ == "__main__":
    import sys

    main(["train", *sys.argv[1:]])
