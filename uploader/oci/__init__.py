"""The protocols of the OCI specifications as pure functions and one state machine; nothing here waits."""
