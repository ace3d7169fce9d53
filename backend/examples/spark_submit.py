"""Run `ml.build_collaborative --spark` under spark-submit, with the flags that follow."""

import sys

from ml.collaborative import process

if __name__ == "__main__":
    process.begin()
    from ml.build_collaborative import main

    process.run(lambda: main(["--spark", *sys.argv[1:]]))
