"""The demo: the same fleet calls a simulated provider without and with the limiter.

`plan` sets the figures, `worker` is one process of the fleet, `fleet` runs the processes, `messages` is what
they say to each other, `tally` judges what they and the provider counted, `view` shows it, `run` puts all of
it together.
"""
