"""Workers that run jobs: this process, one process per device, Ray, or a Prefect work pool. Imports `flows.server`."""
