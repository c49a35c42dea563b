"""The platform as its operators see and steer it: up, down, status, logs, releases, quarantine, audit."""
