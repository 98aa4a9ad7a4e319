"""uploader: pushes graphs of packages to OCI registries."""
