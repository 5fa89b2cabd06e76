"""The world outside the process: whole or absent files, digests, S3, images, Markdown, the revision of the code.

It may know errors alone.
"""
