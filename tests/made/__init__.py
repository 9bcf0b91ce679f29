"""Helpers that several tests share: studies, folders, tables, disks, a process that starts Snakemake."""
