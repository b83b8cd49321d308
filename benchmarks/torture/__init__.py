"""Torture: hostile inputs and kills, each in a process of its own (`make torture`).

One process imports everything once. Every case then runs in a fork of it, so that hundreds of cases
take only minutes. Each has its own folder for temporary files, and limits of time and memory.
`isolation.faults` and `kills.run` define what counts as a fault.
"""
