"""A runbook for schedulers that a team has already: an Airflow DAG, a Kubernetes Job. There is none of our own."""
