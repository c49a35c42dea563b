"""Policies on Kubernetes: two Deployments per line, slots a and b, made by server-side apply.

Reading order: `pods` (the backend), `template` (what a slot's objects are), `reading` (how its pods are), `api` (the
client, with our errors), `election` (which controller acts), `events` (what happens to a release, told to the cluster).
Only these modules know the package `kubernetes`. docs/decisions/0027 says what is ours and what is an operator's.
"""
