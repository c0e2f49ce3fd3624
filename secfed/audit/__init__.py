"""Audits: does the noise that is charged for really stand between a person and the adapter?

`mechanism` measures the real DP-SGD code with made-up rows. The one-run audit trains with secret
canaries (`canary`), scores them on the adapter (`score`), guesses which of them were in
(`guesses`), and turns right guesses into a lower bound on epsilon (`bounds`). `result` keeps what
was found beside the ledger, where the report reads it.

A published adapter is a mean over sites, so a one-run audit bounds what the adapter's users can learn
of one site's rows. An audit can refute a claim; it cannot prove one.
"""
