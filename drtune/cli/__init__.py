"""The commands of `drtune`, one file a group, and what they share: options, and how a mistake of the user is shown.

It may know every room; nothing knows it. Each command imports its room when it runs, so that `--help` answers at once.
"""
