"""WebSockets: programs of a machine while they run, and connections to its ports.

admission   who is let in, and how others are told     conversation   a program and its client
connection  a port of the guest and its client         windows        how much may be under way
routes      the addresses                              (`bandsox.wire`: what is said)
"""
