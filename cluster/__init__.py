"""The cluster: configuration, command line, and starting processes on nodes. The only package that
uses Ray."""
