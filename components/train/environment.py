"""What a step that trains on a cluster finds around it: its time, its run and its pod."""

STEP_HOURS = 40
"""After this time the step is ended, and its job with it."""

RUN_ID, POD_NAME = "DRTUNE_RUN_ID", "DRTUNE_POD_NAME"
POD_FIELDS = {
    # By its label, and not as a parameter: a parameter that differs in every run would end the step's caching.
    RUN_ID: "metadata.labels['pipeline/runid']",
    POD_NAME: "metadata.name",
}
"""Environment variables that tell a step its run and its pod, and the fields of the pod that they come from."""
CERTIFICATES = "/etc/drtune/certificates"
"""Where a ConfigMap with certificates to trust is mounted."""
TRUST = dict.fromkeys(("AWS_CA_BUNDLE", "SSL_CERT_FILE"), f"{CERTIFICATES}/ca-bundle.crt")
"""What leads S3, and the hub and the model registry, to them; the key is the one that OpenShift fills."""
