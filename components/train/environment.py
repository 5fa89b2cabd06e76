"""What a step that trains on a cluster finds in its environment."""

S3_SECRET = "drtune-s3"
"""The Kubernetes secret with the keys of the S3 server."""
S3_KEYS = {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")}
"""Its keys, and the environment variables that they become."""

RUN_ID, POD_NAME, POD_UID = "DRTUNE_RUN_ID", "DRTUNE_POD_NAME", "DRTUNE_POD_UID"
POD_FIELDS = {
    # By its label, and not as a parameter: a parameter that differs in every run would end the step's caching.
    RUN_ID: "metadata.labels['pipeline/runid']",
    POD_NAME: "metadata.name",
    POD_UID: "metadata.uid",
}
"""Environment variables that tell a step its run and its pod, and the fields of the pod that they come from."""
