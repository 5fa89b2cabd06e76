"""The world outside the process: files that are whole or absent, their digests, S3, images, the revision of the code.

It may know errors alone.
"""
