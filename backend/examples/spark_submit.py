"""What spark-submit runs: `ml.build_collaborative` with the flags that follow."""

import sys

from ml.build_collaborative import main

if __name__ == "__main__":
    sys.exit(main(["--engine", "spark", *sys.argv[1:]]))
