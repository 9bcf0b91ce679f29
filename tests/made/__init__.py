"""What the tests make and share: studies, folders, tables, disks, a process that starts Snakemake."""
