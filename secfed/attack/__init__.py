"""Hostile peers against real processes on loopback: one file an attack.

Each attack drives unmodified clients or an unmodified aggregator from the hostile side, tries to
come by what the row of the threat model says it must not, and reports what it then holds.
"""
