"""``python -m betavae_fast`` is ``betavae-fast``."""

from betavae_fast.cli import main

main()
