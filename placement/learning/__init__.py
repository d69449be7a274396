"""Predicting: histories, rules and models of use, and how long pods live. Imports the core, never plans."""
