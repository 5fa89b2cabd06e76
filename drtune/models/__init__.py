"""The networks: base models and their sampling, what tuning adds to them, drawing, export; the embedded `miniature`.

It may know config, contracts and files.
"""
