"""`fourfold bench`: what frames cost on this machine, network by network and end to end, beside what others would use.

Everything of a run is measured in turn, round by round, so that a noisy neighbour disturbs all of it alike.
"""
