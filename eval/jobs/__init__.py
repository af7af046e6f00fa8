"""Closed-loop evaluations of a policy: episodes with an identity, run once each, compared in pairs; see `command`."""
