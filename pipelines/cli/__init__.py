"""The commands of `drtune-pipeline`, one file a group."""
