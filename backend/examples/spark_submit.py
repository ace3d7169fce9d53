"""Run `ml.build_collaborative --spark` under spark-submit, with the flags that follow."""

import sys

from ml.build_collaborative import main

if __name__ == "__main__":
    sys.exit(main(["--spark", *sys.argv[1:]]))
