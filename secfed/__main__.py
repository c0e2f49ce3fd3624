"""`python -m secfed` is the same as `secfed`."""

from secfed.cli.main import main

if __name__ == "__main__":
    main()
