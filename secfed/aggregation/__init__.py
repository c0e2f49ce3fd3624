"""What a round makes of the sites' adapters: strategies over named arrays, initial values, PEFT folders.

numpy only. The aggregator runs this without torch; a client runs the same strategy object on
its own side of the sum.
"""
