"""Runs the steps of a program for all seeds at once; knows no learner and no adapter."""
