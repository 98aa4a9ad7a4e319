"""An OCI image layout folder as a destination: a repository that needs no server."""
