"""One module per procedure; each holds one ``@runbook`` function of the same name."""
