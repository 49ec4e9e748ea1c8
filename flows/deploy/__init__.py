"""`cmrm deploy`: a spec as a deployment on a Prefect server. Imports `flows.deployed`, `flows.watch` and below."""
