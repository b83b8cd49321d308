"""`captionlab run`: the stale stages of the graph, several at once.

DVC knows the graph, what is stale and what was computed before; a job here is a `dvc repro` of one
stage. local.py runs jobs as processes of this machine, on_ray.py as tasks of a Ray cluster.

caption_on_ray.py is of `captionlab caption --ray`.
"""
