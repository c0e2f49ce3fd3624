"""The account of ledgers for people and programs: one reckoning, one wording, five forms.

`account` works the figures out, `document` settles what is said, and each `form_*` writes it down.
"""
