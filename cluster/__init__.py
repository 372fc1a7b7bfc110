"""Puts processes on machines: configuration, command line, Ray. No other room speaks Ray."""
