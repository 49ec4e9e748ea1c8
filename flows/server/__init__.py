"""Prefect's side of a run: API client, embedded server, health monitor, artifacts and progress.

Nothing outside this folder and the executors of `flows/workers` imports Prefect before there is a job to run.
"""
