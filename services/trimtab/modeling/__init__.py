"""Language models in torch: loading, chat templates, sampling, decoding, log-probs, heads.

Used by the processes that compute (`policy`, `reward`, `trainer`). Import the modules late: torch takes seconds.
"""
