"""`python -m cluster up`, for `ray job submit`."""

from cluster.cli import main

if __name__ == "__main__":
    main()
