"""The verbs: each takes what the command line says, judges, and has a job do what is to do."""
