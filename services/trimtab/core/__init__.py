"""Types, ids, errors and maths of Trimtab. Standard library only; everything else may import it."""
