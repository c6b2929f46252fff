#!/usr/bin/env python
"""`cdl train` as a script, where users of Detectron2 look for one; see its --help."""

import sys

from cdl_d2.cli.start import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
