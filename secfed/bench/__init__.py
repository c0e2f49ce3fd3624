"""What the software costs, measured stage by stage beside the limits of the machine that measures.

`secure_sum` measures both sides of a sum (`cohort`: its members; `seats`: the two that are timed, in
`processes` of their own; `meter`: the timing; `work`: what is told apart, and `floors`: what that stands on;
`costs` and `figures`: what it came to, line by line).
`loopback` measures a round over the network (`federation`: members, files and job; `daemon`: the aggregator;
`timed_clients`: the others; `bare`: gRPC alone; `roundtrip`: what it came to).
`dp_step` measures training, `limits` the machine, and `targets` holds it all against what is wanted.
"""
