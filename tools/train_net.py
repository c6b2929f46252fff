#!/usr/bin/env python
"""`cdl train` as a script, at the usual place of a Detectron2 project."""

import sys

from cdl_d2.cli.start import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
