"""Torture: hostile inputs and kills, each in a process of its own (`make torture`).

A process imports everything once. Every case then runs in a fork of it, with a folder of its own
for temporary files and bounds of time and memory, so that hundreds fit into minutes. What is asked
of a case stands in `isolation.faults` and `kills.faults`.
"""
