"""What was spent on a data set, and whether more may be spent. Knows no torch.

`events` say what happened, `entries` and `ledger` keep it, `rdp` and `budget` gate the next
charge from parameters alone, `accountant` and `calibrate` (which load dp_accounting when called)
state the figure, `report` tells it to people. The ledger holds events and never epsilons, so any
accountant can work them out again.
"""
