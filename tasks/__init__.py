"""One Prefect task a stage: read from storage, call cmrm, write to storage."""
