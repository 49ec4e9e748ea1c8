"""Prefect's side of a run: the API that it talks to, the embedded server, and what its interface shows.

Nothing outside this folder and `flows/workers`' executors imports Prefect before there is a job to be done.
"""
