"""`captionlab run`: run the stale stages of the graph, several at once.

DVC knows the graph, which stages are stale, and what was computed before. A job is a `dvc repro` of
one stage. local.py runs jobs as processes on this machine, on_ray.py as tasks of a Ray cluster.

caption_on_ray.py belongs to `captionlab caption --ray`.
"""
