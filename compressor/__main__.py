"""`python -m compressor`: the command where its script is not on the PATH."""

from compressor.stages.app import main

main()
