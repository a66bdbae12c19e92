"""Gymnasium environments: how one is named, made, checked at its boundary, and our mazes."""
