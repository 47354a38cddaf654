"""The dashboard and the alerts on what the real binary exports."""
