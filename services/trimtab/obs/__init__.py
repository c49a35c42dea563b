"""Logs and metrics, each field and metric declared once."""
