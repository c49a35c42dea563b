module trimtab/tests/pause

go 1.26.0
