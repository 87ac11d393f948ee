"""`python train.py ARGS` is `tinynet train ARGS`; without arguments it trains on synthetic cells."""

import sys

from tinynet.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
