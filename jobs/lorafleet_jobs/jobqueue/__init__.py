"""The jobs of every submission as rows in SQL: who may train which one, what came of it, and what comes next."""
