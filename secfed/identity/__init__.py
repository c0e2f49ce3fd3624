"""Who somebody is: keys, certificates, the signed roster of members, and signatures on messages.

Nothing here opens a socket or asks the clock: the time is an argument, and it may cause a
refusal, never a permission.
"""
