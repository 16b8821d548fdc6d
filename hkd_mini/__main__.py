"""`python -m hkd_mini` is the command line; `accelerate launch -m hkd_mini ...` needs
it.
"""

from .app.cli import main

if __name__ == "__main__":
    main()
