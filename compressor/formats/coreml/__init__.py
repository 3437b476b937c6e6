"""Core ML packages: weight.bin, the package around it, and ML Program operations, each in both directions.

All of it works on Core ML Tools' protobuf messages and on nothing else of Core ML Tools.
"""
