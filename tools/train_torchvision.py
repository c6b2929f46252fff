#!/usr/bin/env python
"""`cdl train-torchvision` as a script, for torchrun."""

import sys

from cdl_d2.cli.start import main

if __name__ == "__main__":
    sys.exit(main(["train-torchvision", *sys.argv[1:]]))
