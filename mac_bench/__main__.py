"""`python -m mac_bench` is `mac-bench`."""

from mac_bench.cli import main

if __name__ == "__main__":
    main()
