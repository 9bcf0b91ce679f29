"""Knowledge-distillation experiments: teachers, students and chains as one DAG of trained networks."""

__version__ = "0.1.0"
