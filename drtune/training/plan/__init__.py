"""The plan of a run: its work and its memory, told before a weight is downloaded or a GPU is asked for.

Nothing here knows how much memory a network takes. The run's own code runs on tensors that have a shape and no content
(torch's FakeTensorMode), and every byte that is alive is counted.
"""
