"""Models and the runs that made them: tables, lineage, one run, its report, the same run again."""
