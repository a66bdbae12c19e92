"""Data sets from files, from Minari and OGBench, from the package itself and from the scripted mazes."""
