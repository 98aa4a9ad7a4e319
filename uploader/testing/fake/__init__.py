"""Inside the fake registry: state and decisions as plain code, one file of HTTP around them.

`exchange` (a request and its answer as values) and `quirks` come first; `storage` holds what is kept;
`uploads`, `blobs` and `manifests` decide what a request does to it, without waiting; `gate` is who may
enter; `log` is what was asked; `server` reads bodies, applies faults and sends answers.
"""
