"""`python -m separationfactor.benchmark`."""

from separationfactor.benchmark import main

main()
