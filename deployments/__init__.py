"""Sluice's rooms, one package a stage, and what they share: types, config, errors, deadline, executor, calls, media."""
