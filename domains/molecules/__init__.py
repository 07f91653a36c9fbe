"""Molecules as SELFIES tokens. `load("zinc")` gives the shipped model of drug-like molecules."""
