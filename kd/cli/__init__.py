"""The verbs: each reads the command line, asks the judge, and calls a job if something is to do."""
