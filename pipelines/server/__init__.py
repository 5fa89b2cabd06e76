"""The pipelines on a Kubeflow Pipelines server: upload, submit, follow, schedule."""
